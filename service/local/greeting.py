"""What `treadle up` prints when everything runs."""

import os
import shutil
import sys
from pathlib import Path

from service.config import Settings
from service.local import address


def greeting(settings: Settings) -> str:
    url = address.url(settings.host, settings.port)
    key = ' -H "Authorization: Bearer $TREADLE_KEY"' if settings.needs_auth else ""
    treadle = "treadle" if shutil.which("treadle") else os.path.relpath(Path(sys.executable).with_name("treadle"))
    return f"""
Treadle runs; Ctrl-C stops it.
  API        {url}
  chat       {url}/chat
  dashboard  {url}/dashboard
  docs       {url}/docs
  SQL        {treadle} psql
{_about_keys(settings, treadle)}
Try it:
  curl -s {url}/messages{key} -H 'content-type: application/json' \\
    -d '{{"message": "hello from treadle", "metadata": {{"delay_ms": 200}}}}'
  curl -N {url}/messages/<message_id>/stream{key}
"""


def _about_keys(settings: Settings, treadle: str) -> str:
    """A line on how to get a key where clients need one and none is set."""
    if not settings.needs_auth or settings.treadle_key or settings.treadle_key_file:
        return ""
    return f"  key        export TREADLE_KEY=$({treadle} keys create --scope submit,read)\n"
