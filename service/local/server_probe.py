"""Asks a private PostgreSQL whether it accepts connections, as a client would."""

import re
import subprocess

from service.errors import ConfigError
from service.local.place import Place

TRANSIENT_ERRORS = re.compile(  # what a client is told by a server that only needs time
    "the database system is|No such file|Connection refused|closed the connection|timeout expired|too many|slots"
)


def accepts_connections(place: Place, port: int) -> bool:
    """Whether the server answers a query; makes its database where it is missing.

    Raises ConfigError for an error that waiting does not cure.
    """
    answer = _psql(place, port, "treadle", "select 1")
    if answer.returncode == 0:
        return True
    if 'database "treadle" does not exist' in answer.stderr:
        answer = _psql(place, port, "postgres", "create database treadle")
        if answer.returncode and "already exists" not in answer.stderr:
            raise ConfigError(f"PostgreSQL cannot create its database: {answer.stderr.strip()}")
    elif not TRANSIENT_ERRORS.search(answer.stderr):
        raise ConfigError(f"PostgreSQL does not answer: {answer.stderr.strip()}")
    return False


def _psql(place: Place, port: int, database: str, statement: str) -> subprocess.CompletedProcess[str]:
    where = ("-h", place.socket_folder, "-p", str(port), "-U", "treadle", "-d", database)
    return place.run(place.program("psql"), "-XqAt", *where, "-c", statement)
