"""The log file of a private PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from service.local.cluster import last_error_line
from service.local.place import Place

LOG_LIMIT_BYTES = 10_000_000


class ServerLog:
    """Several servers write to it one after the other; it knows where the lines of the newest one begin."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._start_bytes = 0

    @contextmanager
    def opened_for_server(self) -> Iterator[IO[bytes]]:
        """The file for the output of a server that is about to start."""
        with open(self._place.open_log(), "ab") as file:
            self._start_bytes = file.tell()
            yield file

    def trim(self) -> None:
        """Empty the file when it has grown too large; the server goes on writing to it."""
        with suppress(OSError), open(self._place.open_log(), "ab") as file:
            if file.tell() > LOG_LIMIT_BYTES:
                file.truncate(0)
                self._start_bytes = 0

    def reason(self) -> str:
        """The line in which the newest server says why it ended."""
        with open(self._place.open_log(), "rb") as file:
            file.seek(self._start_bytes)
            return last_error_line(file.read().decode(errors="replace"))
