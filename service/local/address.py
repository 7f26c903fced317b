"""Addresses on this machine: whether a port is free, whether the API answers there, and the URL to print."""

import errno
import http.client
import socket
from contextlib import suppress
from typing import Any

import msgspec

from service.errors import ConfigError

ANSWER_TIMEOUT_SECONDS = 2.0


def check_free(host: str, port: int) -> None:
    """Raise ConfigError when a server could not listen there."""
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"PORT: {port} on {host} is in use by another program: set another port.") from None
        raise ConfigError(f"HOST: nothing can listen on {host}, port {port}: {error.strerror}.") from None


def answers(host: str, port: int) -> bool:
    """Whether the API answers; may take two seconds to return False."""
    return _get(host, port, "/health/live") is not None


def has_worker(host: str, port: int) -> bool:
    """Whether the API knows a living worker, which has registered its agents; may take two seconds to return False."""
    health = msgspec.json.decode(_get(host, port, "/health") or b"{}", type=dict[str, Any])
    return bool(health.get("workers"))


def url(host: str, port: int) -> str:
    """The API's URL for a browser on this machine."""
    host = _reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def usable_port(port: int, *, any_port: bool) -> int:
    """This port of 127.0.0.1; where it is taken, another one if `any_port`, or else ConfigError is raised."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    if not any_port:
        raise ConfigError(f"Port {port} on 127.0.0.1 is in use by another program: stop it, or name another port.")
    return free_port()


def _get(host: str, port: int, path: str) -> bytes | None:
    """The body of a 200; None for any other answer."""
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=ANSWER_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
