"""The limit of open files: each connection of a client is one, and many systems start a process with 1,024."""

import logging
import resource
import time
from contextlib import suppress

log = logging.getLogger(__name__)

RESERVED_FILES = 64  # for connections to PostgreSQL, logs, and files that are opened meanwhile
REMINDER_SECONDS = 60.0


def raise_limit() -> None:
    """Raise this process's limit as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS refuses an infinite limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class ClientConnections:
    """Refuses a connection that would take one of the last files, and logs that once a minute."""

    def __init__(self) -> None:
        self._refused = 0  # since the last warning
        self._warned_at = float("-inf")

    def has_room(self, file: int) -> bool:
        """Whether the connection with this file number may stay: the system gives the lowest number that is free."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY or file < limit - RESERVED_FILES:
            return True
        self._refused += 1
        if time.monotonic() - self._warned_at >= REMINDER_SECONDS:
            log.warning(
                "connections are refused, because the limit of open files is reached: raise the system's limit",
                extra={"limit": limit, "refused": self._refused},
            )
            self._refused, self._warned_at = 0, time.monotonic()
        return False
