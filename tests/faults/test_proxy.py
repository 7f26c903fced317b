"""The proxy of the faults passes on what it does not break."""

from types import SimpleNamespace
from typing import Any

from faults.proxy import Link, Proxy


async def test_nothing_overtakes_what_arrives_while_a_proxy_connects() -> None:
    """The head of a request comes before the other side is connected, and its body just after that."""
    link = Link(Proxy(0))
    written: list[bytes] = []
    server: Any = SimpleNamespace(write=written.append)
    link.client.data_received(b"head ")
    link.server.connection_made(server)
    link.client.data_received(b"body")
    assert written == [b"head ", b"body"]
