"""How much one client may ask of one API process: requests a second, and streams, sockets and connections at once.

A client is an IP address (of IPv6, a network of 64 bits, because one customer of a provider has all of its addresses),
and also a key: what comes with it from any number of addresses counts together. A token with a subject, a thread or a
message is a client of its own. An API on loopback without a proxy has no such limits unless they are set.
"""

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

from service.access.principal import Principal
from service.config import Settings
from service.errors import TooManyRequests
from service.hosts import is_loopback

REQUESTS_PER_SECOND = 1_000.0
OPEN_STREAMS = 1_000
HEALTH_PER_SECOND = 50.0  # health checks of one address, which count by themselves
BURST_SECONDS = 2.0  # the requests of so many seconds may come at once
MAX_CLIENTS = 20_000  # that are remembered; about 3 MB
SHORT_CONNECTIONS = 200  # of one address, beyond those of its streams; a trusted proxy has any number
RETRY_SECONDS = 10
PAUSE_SECONDS = 0.5  # that each connection of a flooding client waits for its refusal
MAX_ADDRESS_CHARS = 100

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientLimits:
    """The limits of one process. `clock` gives seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        limited = not is_loopback(settings.host) or bool(settings.trusted_proxies)
        self.per_second = settings.client_requests_per_second or (REQUESTS_PER_SECOND if limited else math.inf)
        self.streams = settings.client_open_streams or (OPEN_STREAMS if limited else math.inf)
        self.limits_requests = self.per_second < math.inf
        self._clock = clock
        self._free_at: dict[str, float] = {}  # when a client that sends nothing more has its whole burst again
        self.connections = self.streams + SHORT_CONNECTIONS
        self._proxies = [ipaddress.ip_network(network) for network in settings.trusted_proxies]
        self._streams: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()

    def count_request(self, client: str) -> None:
        """Raises TooManyRequests."""
        if self.limits_requests and (wait := self._count(client, self.per_second)):
            raise TooManyRequests(
                f"More than {self.per_second:g} requests a second (CLIENT_REQUESTS_PER_SECOND): send fewer.",
                retry_after=wait,
            )

    def count_health_check(self, address: str) -> None:
        """Raises TooManyRequests."""
        if self.limits_requests and (wait := self._count(f"health {address}", HEALTH_PER_SECOND)):
            raise TooManyRequests(
                f"More than {HEALTH_PER_SECOND:g} health checks a second: send fewer.", retry_after=wait
            )

    def _count(self, client: str, per_second: float) -> int:
        """Seconds after which the client may try again; 0: the request counts."""
        now = self._clock()
        free_at = max(self._free_at.get(client, now), now)
        if (wait := free_at - now - BURST_SECONDS) > 0:
            return math.ceil(wait)
        if client not in self._free_at and len(self._free_at) >= MAX_CLIENTS:
            self._forget(now)
        self._free_at[client] = free_at + 1 / per_second
        return 0

    @contextlib.contextmanager
    def stream(self, client: str) -> Iterator[None]:
        """Count an open stream or socket meanwhile. Raises TooManyRequests."""
        self.open_stream(client)
        try:
            yield
        finally:
            self.close_stream(client)

    def open_stream(self, client: str) -> None:
        """Count an open stream, until `close_stream`. Raises TooManyRequests."""
        if self._streams[client] >= self.streams:
            raise TooManyRequests(
                f"More than {self.streams} streams and sockets are open at once (CLIENT_OPEN_STREAMS): close some.",
                retry_after=RETRY_SECONDS,
            )
        self._streams[client] += 1

    def close_stream(self, client: str) -> None:
        _decrement(self._streams, client)

    def open_connection(self, address: str) -> None:
        """Count a connection, until `close_connection`. Raises TooManyRequests."""
        if self._connections[address] >= self.connections and not _is_among(address, self._proxies):
            raise TooManyRequests(
                f"More than {self.connections} connections are open at once from this address: close some.",
                retry_after=RETRY_SECONDS,
            )
        self._connections[address] += 1

    def close_connection(self, address: str) -> None:
        _decrement(self._connections, address)

    def _forget(self, now: float) -> None:
        """Drop the clients that have their whole burst; where that leaves too many, also those that came first."""
        kept = [(client, free_at) for client, free_at in self._free_at.items() if free_at > now]
        self._free_at = dict(kept[-MAX_CLIENTS // 2 :])


async def pause() -> None:
    """Awaited before a request beyond the limit is refused. A client that asks again at once would keep the process
    busy with refusals, and others would wait; so its connections wait, whose number has a limit."""
    await asyncio.sleep(PAUSE_SECONDS)


def key_of(principal: Principal) -> str:
    """The client that a key, a token or a JWT stands for."""
    return f"{principal.tenant} {principal.key_id or principal.name} {principal.reach or ''}"


def address_of(client: tuple[str, int] | None) -> str:
    """The client at the other end of a connection, or the one that a trusted proxy names."""
    return _network(client[0][:MAX_ADDRESS_CHARS]) if client else ""


@lru_cache(10_000)
def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # from a header of a trusted proxy
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _is_among(address: str, networks: list[Network]) -> bool:
    found = ipaddress.ip_network(address)
    return any(found.version == network.version and found.overlaps(network) for network in networks)


def _decrement(counter: Counter[str], client: str) -> None:
    counter[client] -= 1
    if counter[client] <= 0:
        del counter[client]
