"""Addresses at which no server listens."""

import socket


def with_closed_port(dsn: str) -> str:
    """The same address with a port at which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    user_and_host, _, database = dsn.rpartition("/")
    return f"{user_and_host.rpartition(':')[0]}:{port}/{database}"
