"""The lock files of the supervisor in TREADLE_HOME."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import ConfigError


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a lock file, owned by the owner of its folder; no link is followed."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(file, folder.st_uid, folder.st_gid)
        yield file
    finally:
        os.close(file)


def try_lock(file: int) -> bool:
    """Take the lock unless another process has it; it stays with this process and the children that inherit it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def claim(file: int, home: Path) -> None:
    """Take the lock and write this process's number into it; raises ConfigError where another supervisor has it."""
    if not try_lock(file):
        raise ConfigError(f"Treadle already runs in {home}, by process {os.pread(file, 20, 0).decode().strip()}.")
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
