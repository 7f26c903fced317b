"""Ports of loopback that stay with a run."""

import socket
import sys


class KeptPort:
    """`number` is a port for a server that stops and starts again: while it is away, the system gives its port to no
    other program, and refuses connections to it. Other systems than Linux keep a bound port for its socket alone: there
    it is only free at first."""

    def __init__(self) -> None:
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.number: int = self._place.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        self._place.close()
