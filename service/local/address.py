"""The API's address, seen from outside of it: is it free, does the API answer there, how do people write it."""

import errno
import http.client
import socket

from service.errors import ConfigError


def check_free(host: str, port: int) -> None:
    """Raise ConfigError when a server could not listen there."""
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"PORT: {port} on {host} is in use by another program.") from None
        raise ConfigError(f"HOST: nothing can listen on {host}, port {port}: {error.strerror}.") from None


def answers(host: str, port: int) -> bool:
    """Whether the API is alive; may take two seconds to say no."""
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=2)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def url(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    host = _reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
