"""What `treadle up` prints when everything runs."""

import os
import shutil
import sys
from pathlib import Path

from service.config import Settings
from service.local import address


def greeting(settings: Settings) -> str:
    url = address.url(settings.host, settings.port)
    treadle = "treadle" if shutil.which("treadle") else os.path.relpath(Path(sys.executable).with_name("treadle"))
    return f"""
Treadle runs; Ctrl-C stops it.
  API    {url}
  chat   {url}/chat
  docs   {url}/docs
  SQL    {treadle} psql

Try it:
  curl -s {url}/messages -H 'content-type: application/json' \\
    -d '{{"message": "hello from treadle", "metadata": {{"delay_ms": 200}}}}'
  curl -N {url}/messages/<message_id>/stream
"""
