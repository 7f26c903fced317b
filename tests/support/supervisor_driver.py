"""Runs the supervisor for test_supervisor; STUBS has the commands of its children."""

import json
import logging
import os
import sys

from service.config import load
from service.errors import TreadleError
from service.local import supervisor


def announce(text: str) -> None:
    print(text, flush=True)


logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
announce(f"supervisor is {os.getpid()}")
try:
    supervisor.run(
        load(os.environ),
        os.environ,
        announce,
        commands=json.loads(os.environ["STUBS"]),
        stop_margin_seconds=float(os.environ.get("STOP_MARGIN_SECONDS", "60")),
    )
except TreadleError as error:
    announce(str(error))
    sys.exit(1)
