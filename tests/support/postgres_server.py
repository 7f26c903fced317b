"""The PostgreSQL of a test run: the embedded one, or another one with unusual settings."""

import contextlib
import os
import tempfile
from pathlib import Path

from service.local.private_postgres import PrivatePostgres, temporary_postgres

# The environment's name for a folder with the programs of another PostgreSQL.
OTHER_PROGRAMS_VARIABLE = "TREADLE_TEST_POSTGRES"
UNUSUAL_SETTINGS = {"timezone": "Europe/Berlin", "jit": "on", "DateStyle": "German"}


def postgres_of_the_run() -> contextlib.AbstractContextManager[PrivatePostgres]:
    """A server on a free port of 127.0.0.1, deleted at the end."""
    home = Path(tempfile.mkdtemp(prefix="treadle-tests-"))
    programs = os.environ.get(OTHER_PROGRAMS_VARIABLE)
    if programs is None:
        return temporary_postgres(home)
    return temporary_postgres(home, options=UNUSUAL_SETTINGS, programs=Path(programs))
