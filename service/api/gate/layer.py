"""The gate: one layer before all routes and sockets, which decides whether a page in a browser may send a request.

Any page that a person visits can send requests to any address that this person's browser reaches, also to localhost.
The gate refuses

- a `Host` that is not in ALLOWED_HOSTS: a page whose name was pointed at this machine (DNS rebinding) sends its own;
- a request or a handshake of a page of another origin, unless CORS_ORIGINS has that origin;
- a body of a type that a page may send without asking first, or without a type;
- a query string that is expensive to parse: routes and sockets parse it before they know who asks;

and completes the headers of each answer (`gate.answers`).
"""

import logging
import time
from functools import lru_cache
from typing import Any, TypeAlias

from litestar.types import ASGIApp, Receive, Send

from service.api.gate.answers import Answers
from service.api.problems import send_problem
from service.client_limits import ClientLimits, address_of, pause
from service.config import Settings
from service.errors import ForeignPage, Invalid, QueryTooLong, Refused, TooManyRequests, WrongHost, WrongMediaType
from service.hosts import (
    DEFAULT_PORTS,
    MAX_AUTHORITY_BYTES,
    AllowedHosts,
    AllowedOrigins,
    Authority,
    Origin,
    is_address,
    is_loopback,
    parse_authority,
    parse_origin,
)

log = logging.getLogger(__name__)

REMINDER_SECONDS = 60.0
HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES = frozenset({b"same-origin", b"none"})  # none: a person typed the address
PAGE_TYPES = frozenset({b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain"})
MAX_QUERY_BYTES = 16_384  # a token in it has at most 10,000 characters
MAX_QUERY_PARAMETERS = 200
READ_HEADERS = frozenset(
    {
        *(b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"authorization"),
        *(b"content-type", b"content-length", b"transfer-encoding"),
        *(b"idempotency-key", b"last-event-id"),  # of routes, which see only one of them
    }
)

Headers: TypeAlias = dict[bytes, bytes]


class Gate:
    """The application `app` behind the gate."""

    def __init__(self, app: ASGIApp, settings: Settings, limits: ClientLimits) -> None:
        self._app = app
        self._limits = limits
        self._origins = AllowedOrigins(settings.cors_origins)
        self._hosts = AllowedHosts(settings.allowed_hosts, listens_on=settings.host)
        self._answers = Answers(vary=bool(self._origins))
        self._trusts_proxies = bool(settings.trusted_proxies)
        self._unknown_proxy = UnknownProxy()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        foreign = None  # the origin of a page that may read the answer
        refusal = None
        try:
            headers = _read(scope["headers"])
            foreign = self._check_origin(scope, headers, self._check_host(scope, headers))
            _check_query(scope["query_string"])
            _check_media_type(scope, headers)
            if self._limits.limits_requests:
                self._count(scope)
        except Refused as error:
            refusal = error
        if scope["type"] == "http":
            send = self._answers.completing(send, scope, foreign)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            if isinstance(refusal, TooManyRequests):
                await pause()
            await send_problem(scope, send, refusal)

    def _count(self, scope: Any) -> None:
        address = address_of(scope["client"])
        if scope["path"] in HEALTH_PATHS:
            self._limits.count_health_check(address)
            return
        try:
            self._limits.count_request(address)
        except TooManyRequests:
            if not self._trusts_proxies and any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
                self._unknown_proxy.warn(address)
            raise

    def _check_host(self, scope: Any, headers: Headers) -> Authority | None:
        """Health checks name an address, or nothing."""
        named = headers.get(b"host")
        authority = _parse_host(named) if named else None
        if scope["path"] in HEALTH_PATHS and (
            not named or (authority and (is_address(authority.host) or is_loopback(authority.host)))
        ):
            return authority
        if authority is None:
            raise Invalid("The header Host is missing or malformed: send the name of this API.")
        if not self._hosts.allow(authority.host):
            raise WrongHost(f"This API is not known as {authority.host}: add that name to ALLOWED_HOSTS.")
        return authority

    def _check_origin(self, scope: Any, headers: Headers, authority: Authority | None) -> bytes | None:
        """The origin of the page where CORS_ORIGINS has it; None where the page is this API's own, or no page asks."""
        text, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
        if text is None:
            if site in OWN_SITES or _is_link(scope, headers):
                return None
            raise ForeignPage("A page of another origin may not use this API: add that origin to CORS_ORIGINS.")
        origin = _parse_page(text)
        if origin is not None and self._origins.allow(origin):
            return text
        if origin is None or not _is_own(origin, authority) or site not in OWN_SITES:
            name = text[:MAX_AUTHORITY_BYTES].decode("latin-1")
            raise ForeignPage(f"A page of {name} may not use this API: add that origin to CORS_ORIGINS.")
        return None


class UnknownProxy:
    """Warns once a minute that a proxy may be in front which the settings do not name."""

    def __init__(self) -> None:
        self._warned_at = float("-inf")

    def warn(self, address: str) -> None:
        if time.monotonic() - self._warned_at >= REMINDER_SECONDS:
            self._warned_at = time.monotonic()
            log.warning(
                "an address is refused that names other clients: if it is your proxy, add it to TRUSTED_PROXIES",
                extra={"address": address},
            )


def _read(headers: list[tuple[bytes, bytes]]) -> Headers:
    """Those of READ_HEADERS. Raises Invalid for one that is there twice: a proxy may have read the other."""
    found: Headers = {}
    for name, value in headers:
        if name in READ_HEADERS:
            if name in found:
                raise Invalid(f"The header {name.decode()} is given more than once; send it once.")
            found[name] = value
    return found


def _parse_host(value: bytes) -> Authority | None:
    return _parse_short_host(value) if len(value) <= MAX_AUTHORITY_BYTES else None


@lru_cache(1_000)
def _parse_short_host(value: bytes) -> Authority | None:
    return parse_authority(value.decode("latin-1"))


def _parse_page(value: bytes) -> Origin | None:
    return parse_origin(value.decode("latin-1")) if len(value) <= MAX_AUTHORITY_BYTES else None


def _is_own(origin: Origin, authority: Authority | None) -> bool:
    """Whether the page is one of this API. The scheme does not count: the proxy in front may speak TLS."""
    return authority is not None and origin[1:] == (
        authority.host,
        authority.port or DEFAULT_PORTS.get(origin.scheme, ""),
    )


def _is_link(scope: Any, headers: Headers) -> bool:
    """Whether a person follows a link from another site: the other site learns nothing about the answer."""
    return scope["type"] == "http" and scope["method"] in SAFE_METHODS and headers.get(b"sec-fetch-mode") == b"navigate"


def _check_query(text: bytes) -> None:
    """Raises QueryTooLong. Litestar remembers what it has parsed of the last thousand query strings."""
    if len(text) > MAX_QUERY_BYTES or text.count(b"&") >= MAX_QUERY_PARAMETERS:
        raise QueryTooLong(
            f"The query string has more than {MAX_QUERY_BYTES} bytes or {MAX_QUERY_PARAMETERS} parameters: send less."
        )


def _check_media_type(scope: Any, headers: Headers) -> None:
    if scope["type"] == "websocket" or scope["method"] in SAFE_METHODS:
        return
    if b"transfer-encoding" not in headers and not headers.get(b"content-length", b"").strip(b"0"):
        return  # no body
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if not media_type:
        raise WrongMediaType("The body has no Content-Type: send application/json.")
    if media_type in PAGE_TYPES:
        raise WrongMediaType(f"The body must be application/json, not {media_type.decode()}.")
