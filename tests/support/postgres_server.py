"""The PostgreSQL of a test run: the embedded one, or another one with unusual settings."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from service.local.private_postgres import PrivatePostgres, remove_abandoned, temporary_postgres

# The environment's name for a folder with the programs of another PostgreSQL.
OTHER_PROGRAMS_VARIABLE = "TREADLE_TEST_POSTGRES"
UNUSUAL_SETTINGS = {"timezone": "Europe/Berlin", "jit": "on", "DateStyle": "German"}
MEMORY_FOLDER = Path("/dev/shm")
MEMORY_BYTES = 3 * 1024**3  # that must be free there
FOLDER_PREFIX = "treadle-tests-"


def postgres_of_the_run() -> contextlib.AbstractContextManager[PrivatePostgres]:
    """A server on a free port of 127.0.0.1, deleted at the end.

    Its data are in memory where there is room. Many tests make and delete a database of about 460 files, and the file
    system ext4 searches long for the inode of a new file while many were deleted in the last seconds.
    """
    options = {
        "max_wal_size": "256MB",
        "autovacuum": "off",  # at any moment, it would change plans and pages
        "max_connections": "300",  # idle sessions are kept (warm_sessions.py)
    }
    programs = os.environ.get(OTHER_PROGRAMS_VARIABLE)
    if programs is None:
        return temporary_postgres(_new_home(), options=options)
    return temporary_postgres(_new_home(), options=options | UNUSUAL_SETTINGS, programs=Path(programs))


def _new_home() -> Path:
    in_memory = MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_BYTES
    if in_memory:
        remove_abandoned(MEMORY_FOLDER.glob(f"{FOLDER_PREFIX}*"))
    home = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=MEMORY_FOLDER if in_memory else None))
    home.chmod(0o711)  # started by root, the server runs as another user, who must reach its own folder in here
    return home
