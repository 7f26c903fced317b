"""Runs the supervisor for test_supervisor, which says by STUBS what its children are."""

import json
import logging
import os
import sys

from service import supervisor
from service.config import load

logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
supervisor.MARGIN = float(os.environ.get("MARGIN", "60"))
print(f"supervisor is {os.getpid()}", flush=True)
announce = lambda text: print(text, flush=True)  # noqa: E731
sys.exit(supervisor.run(load(os.environ), os.environ, announce, json.loads(os.environ["STUBS"])))
