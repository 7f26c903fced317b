"""Proxies in front of the database, and addresses that lead through them."""

import contextlib
from collections.abc import AsyncIterator

from faults.proxy import Proxy


@contextlib.asynccontextmanager
async def database_proxy(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server of the test's database, which can be cut."""
    proxy = Proxy(int(dsn.rpartition(":")[2].partition("/")[0]), postgres=True)
    await proxy.start()
    yield proxy
    await proxy.close()


def dsn_through(dsn: str, *proxies: Proxy) -> str:
    """The address of the test's database through these proxies, in this order. As in the fixture `settings`, a new
    session may take longer than the three seconds of the product."""
    user, _, rest = dsn.partition("@")
    places = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    return f"{user}@{places}/{rest.partition('/')[2]}?sslmode=disable&connect_timeout=30"
