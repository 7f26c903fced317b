"""Ports of loopback for servers that must know theirs in advance, and ports at which no server listens."""

import contextlib
import itertools
import os
import random
import socket
import sys
from collections.abc import Iterator

# Below the range from which Linux (from 32768) and macOS (from 49152) take the ports of outgoing connections: no
# connection of another test takes the port before the server listens at it.
FIRST_PORT, LAST_PORT = 20_000, 32_000
PROCESSES = 8  # of a run, each of which has a part of these ports
CLOSED_PORT = 1  # no server listens there: only root may, and none of ours does


def _ports_of_this_process() -> Iterator[int]:
    """They come in turn, so that no two servers that start meanwhile have one port. Another run begins elsewhere."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
    ports = range(FIRST_PORT, LAST_PORT)[number::PROCESSES]
    begin = random.SystemRandom().randrange(len(ports))
    return itertools.cycle([*ports[begin:], *ports[:begin]])


_ports = _ports_of_this_process()


def free_port() -> int:
    """A port at which no server listens, for a server that starts a moment later."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A port for a server that stops and starts again: while it is away, the system gives its port to no other program,
    and refuses connections to it. Other systems than Linux keep a bound port for its socket alone."""
    if sys.platform != "linux":
        yield free_port()
        return
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        yield place.getsockname()[1]


def is_listening(port: int) -> bool:
    """Whether a server listens at this port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def with_closed_port(dsn: str) -> str:
    """The same address with a port at which no server listens."""
    user_and_host, _, database = dsn.rpartition("/")
    return f"{user_and_host.rpartition(':')[0]}:{CLOSED_PORT}/{database}"
