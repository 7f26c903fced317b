"""Addresses that lead through proxies."""

from faults.proxy import Proxy


def dsn_through(dsn: str, *proxies: Proxy) -> str:
    """The address of the test's database through these proxies, in this order. As in the fixture `settings`, a new
    session may take longer than the three seconds of the product."""
    user, _, rest = dsn.partition("@")
    places = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    return f"{user}@{places}/{rest.partition('/')[2]}?sslmode=disable&connect_timeout=30"
