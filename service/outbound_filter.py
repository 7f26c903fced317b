"""POST to addresses that clients name, and only to public ones: a client must not reach this network through us.

The filter decides about the very address that it connects to: it resolves the name once, refuses private addresses,
and connects to one of the others. Neither proxies of the environment nor redirects are used.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from service.errors import ConfigError
from service.limits import MAX_URL_CHARS
from service.name_lookups import Address, NameLookups

if TYPE_CHECKING:
    import httpx2

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ADDRESSES = 3  # of a name that are tried
MAX_ANSWER_BYTES = 16_000  # read of the body of an answer
CONNECT_SECONDS = 5.0  # for each address
DEFAULT_PORTS = {"http": 80, "https": 443}
PORTS = frozenset({80, 443})  # and all from 1024 on: lower ones belong to mail, shells and file shares

# Networks of IPv4 that are not public: those in IANA's registry of special addresses, multicast, reserved ones, and an
# address with which a cloud serves its own machines.
NOT_PUBLIC = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
# Of IPv6 only this is public, without the networks that carry addresses of IPv4 or are for documents. So loopback,
# local and multicast addresses, mapped ones (::ffff:0:0/96) and those of NAT64 (64:ff9b::/96) are not.
PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC_IPV6 = tuple(
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for http: it trusts no authority


class AddressRefused(Exception):
    """The filter does not let requests go there. The text is one sentence."""


class Unreachable(Exception):
    """No answer: the name is unknown, the connection failed, or the time is over. The text is one sentence."""


class Answer(NamedTuple):
    """`headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]


class OutboundFilter:
    """`networks` are allowed although they are not public; `http` allows addresses without TLS."""

    def __init__(self, *, networks: Sequence[str] = (), http: bool = False) -> None:
        self._networks = parse_networks(networks)
        self._http = http
        self._lookups = NameLookups()
        self._tls: ssl.SSLContext | None = None

    def check_url(self, url: str) -> None:
        """Checks the URL without resolving its name; raises AddressRefused."""
        self._parse(url)

    def allows(self, address: Address) -> bool:
        """Whether requests may go to this address."""
        if any(address in network for network in self._networks):
            return True
        if isinstance(address, ipaddress.IPv4Address):
            return not any(address in network for network in NOT_PUBLIC)
        return address in PUBLIC_IPV6 and not any(address in network for network in NOT_PUBLIC_IPV6)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, tenant: str, seconds: float) -> Answer:
        """The answer to one POST, which takes at most so long. Raises AddressRefused, Unreachable, Crowded."""
        parsed = self._parse(url)
        try:
            async with asyncio.timeout(seconds):
                addresses = await self._resolve(tenant, parsed)
                return await self._post(parsed, addresses, body, headers)
        except TimeoutError:
            raise Unreachable(f"There was no answer within {seconds:g} seconds.") from None

    async def _post(
        self, url: "httpx2.URL", addresses: Sequence[Address], body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        import httpx2

        tls = await self._make_tls() if url.scheme == "https" else NO_TLS
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        # No connection is kept: to two hosts of one address, a kept one would be that of the wrong host.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx2.AsyncClient(verify=tls, trust_env=False, timeout=timeout, limits=limits) as client:
            for number, address in enumerate(addresses, start=1):
                try:
                    return await self._post_to(client, url, address, body, headers)
                except httpx2.TransportError as error:
                    is_last = number == len(addresses)
                    if is_last or not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                        raise Unreachable(_reason(error)) from error
        raise AssertionError("there is an address")

    async def _make_tls(self) -> ssl.SSLContext:
        """What trusts the authorities of this machine: made once, in a thread, because that is slow."""
        import httpx2

        if self._tls is None:
            # A thread of its own: functions of agents that hang may hold all those of the loop.
            thread = ThreadPoolExecutor(1, thread_name_prefix="tls")
            try:
                self._tls = await asyncio.get_running_loop().run_in_executor(thread, httpx2.create_ssl_context)
            finally:
                thread.shutdown(wait=False)
        return self._tls

    async def _post_to(
        self, client: "httpx2.AsyncClient", url: "httpx2.URL", address: Address, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        request = client.build_request(
            "POST",
            url.copy_with(host=str(address)),
            content=body,
            headers={
                "User-Agent": "treadle",
                **headers,
                "Host": url.netloc.decode("ascii"),
                "Accept": "*/*",
                "Accept-Encoding": "identity",  # a compressed answer could expand to gigabytes
            },
            # The certificate must be that of the name.
            extensions={"sni_hostname": url.raw_host.decode("ascii").rstrip("."), "timeout": client.timeout.as_dict()},
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            size = 0
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    break
            return Answer(response.status_code, dict(response.headers))
        finally:
            await response.aclose()

    def _parse(self, url: str) -> "httpx2.URL":
        import httpx2

        expected = "http or https" if self._http else "https"
        if len(url) > MAX_URL_CHARS or not url.isprintable() or " " in url:
            raise AddressRefused(f"The address must have at most {MAX_URL_CHARS} characters, and no space among them.")
        try:
            parsed = httpx2.URL(url)
            scheme, host = parsed.scheme, parsed.host
            port = DEFAULT_PORTS.get(scheme, 0) if parsed.port is None else parsed.port
        except (httpx2.InvalidURL, ValueError):
            raise AddressRefused(f"Expected an {expected} address such as https://example.com/hook.") from None
        if scheme not in DEFAULT_PORTS or not host:
            raise AddressRefused(f"Expected an {expected} address such as https://example.com/hook.")
        if scheme == "http" and not self._http:
            raise AddressRefused("The address must begin with https://; WEBHOOK_HTTP=true allows http:// as well.")
        if parsed.userinfo:
            raise AddressRefused("The address must have no user name and no password.")
        if port not in PORTS and not 1024 <= port <= 65535:
            raise AddressRefused("The port must be 80, 443, or 1024 and above.")
        for address in [LOOPBACK] if _is_localhost(host) else _literal(host):
            self._require(address)
        return parsed

    def _require(self, address: Address) -> None:
        if not self.allows(address):
            raise AddressRefused(f"{address} is no public address; WEBHOOK_NETWORKS allows networks of your own.")

    async def _resolve(self, tenant: str, url: "httpx2.URL") -> list[Address]:
        """The addresses to try; raises AddressRefused where the name has none that is allowed, Unreachable where it
        has none, Crowded."""
        host = url.raw_host.decode("ascii").strip("[]")
        try:
            addresses = _literal(host) or await self._lookups.find(tenant, host)
        except (OSError, UnicodeError):  # TimeoutError is one, too
            raise Unreachable(f"The name {host} cannot be resolved.") from None
        allowed = [address for address in addresses if self.allows(address)]
        if not allowed:
            self._require(addresses[0])
        return allowed[:MAX_ADDRESSES]


@functools.cache
def filter_of(networks: tuple[str, ...], *, http: bool) -> OutboundFilter:
    """The filter of the settings WEBHOOK_NETWORKS and WEBHOOK_HTTP, for checks of addresses."""
    return OutboundFilter(networks=networks, http=http)


def parse_networks(networks: Sequence[str]) -> tuple[Network, ...]:
    """The networks of the setting WEBHOOK_NETWORKS; raises ConfigError."""
    parsed = []
    for network in networks:
        try:
            parsed.append(ipaddress.ip_network(network))
        except ValueError:
            raise ConfigError(
                f"WEBHOOK_NETWORKS: Expected addresses or networks such as 10.0.0.0/8, got {network!r}."
            ) from None
    return tuple(parsed)


def _is_localhost(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def _literal(host: str) -> list[Address]:
    """The address that the host is, also in a form that only name resolution reads, such as 0x7f.1 and 2130706433."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        return [ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))]
    except (OSError, UnicodeError):
        return []


def _reason(error: Exception) -> str:
    text = " ".join((str(error) or type(error).__name__).split())[:300].rstrip(".")
    return f"The address cannot be reached: {text}."
