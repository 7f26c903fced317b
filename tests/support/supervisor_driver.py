"""Runs the supervisor for test_supervisor, which says by STUBS what its children are."""

import json
import logging
import os
import sys

from service.config import load
from service.errors import TreadleError
from service.local import supervisor

logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
print(f"supervisor is {os.getpid()}", flush=True)
announce = lambda text: print(text, flush=True)  # noqa: E731
try:
    supervisor.run(
        load(os.environ),
        os.environ,
        announce,
        commands=json.loads(os.environ["STUBS"]),
        stop_margin_seconds=float(os.environ.get("STOP_MARGIN_SECONDS", "60")),
    )
except TreadleError as error:
    sys.exit(announce(str(error)) or 1)
