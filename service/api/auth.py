"""Authentication: the key or token of each HTTP request, checked against the scope that its route declares.

Sockets are checked where they are opened (service/sockets/admission.py): a page can send its token only there.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.access.authenticator import Access, Authenticator, OpenAccess, bearer, require
from service.access.cache import KeyCache
from service.access.json_web_tokens import build_verifier
from service.access.principal import ANY_SCOPE, OPEN_SCOPE, Principal
from service.access.secrets import KEY_PREFIX
from service.access.store import KeyStore
from service.access.tenant_cache import TenantCache
from service.access.tokens import TOKEN_PREFIX, TokenSigner
from service.api.services import find_service
from service.config import Settings
from service.db.fair import tenant_of_request
from service.errors import ConfigError, Forbidden, SchemaError, Unavailable
from service.hosts import is_loopback
from service.sse_frames import MEDIA_TYPE, RECONNECT

log = logging.getLogger(__name__)

PUBLIC_AND_OPEN = "AUTH is off and HOST is not of the loopback: every client that reaches the API may do everything"
MIN_KEY_CHARS = 32
OF_CLIENTS = (KEY_PREFIX, TOKEN_PREFIX, "eyJ")  # the last begins a JWT


class AccessParts:
    """What the routes and sockets of one API process share. `on_end` is called when a key was revoked."""

    def __init__(self, settings: Settings, keys: KeyStore, on_end: Callable[[], None]) -> None:
        self._settings = settings
        self.keys = keys
        self.tokens = TokenSigner(self.keys)
        tenants = TenantCache(self.keys)
        self.cache = KeyCache(self.keys, tenants, on_end)
        self.access: Access = OpenAccess()
        if settings.needs_auth:
            self.access = Authenticator(
                self.cache,
                self.tokens,
                tenants,
                bootstrap_key=_bootstrap_key(settings),
                jwts=build_verifier(settings),
            )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Keep the keys young meanwhile."""
        if not self.access.required:
            if not is_loopback(self._settings.host):
                log.warning(PUBLIC_AND_OPEN, extra={"host": self._settings.host})
            yield
            return
        log.info("AUTH is on: clients need a key (treadle keys create, or TREADLE_KEY), a token or a JWT")
        if _is_of_client(self._settings.treadle_key):
            log.info("TREADLE_KEY is a client's key, token or JWT by its beginning: it gets no rights of its own")
        refreshing = asyncio.create_task(self.cache.run())
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)


class Authentication:
    """Middleware: puts the principal of each request into its scope, or refuses it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Unauthorized, Forbidden, Unavailable, SchemaError."""
        if scope["type"] == ScopeType.HTTP:
            options = scope["route_handler"].opt
            if options["scope"] != OPEN_SCOPE:
                try:
                    scope["user"] = await self._principal(scope, options)
                except (Unavailable, SchemaError):
                    if not options.get("is_stream"):
                        raise
                    await _send_reconnect(send)
                    return
                tenant_of_request.set(scope["user"].tenant)
        await self._app(scope, receive, send)

    async def _principal(self, scope: Any, options: dict[str, Any]) -> Principal:
        credential = _bearer(scope, takes_basic=options.get("takes_basic", False))
        if credential is None and options.get("takes_api_key"):
            credential = _api_key(scope)
        if credential is None and options.get("is_stream"):
            credential = _token_in_query(scope)
        access: Access = find_service("access")
        principal = await access.identify(credential)
        if options["scope"] != ANY_SCOPE:
            require(principal, options["scope"])
        if options.get("operators_only") and not principal.is_operator:
            raise Forbidden("Only a key of the tenant default, without restrictions, may do this.")
        if options.get("unrestricted") and principal.reach is not None:
            raise Forbidden("A key or token with restrictions (subject, agents, thread, message) may not do this.")
        return principal


def principal_of(scope: Scope) -> Principal:
    """The principal that Authentication found; for handlers that take `principal`."""
    principal: Principal = scope["user"]
    return principal


def _bearer(scope: Any, *, takes_basic: bool) -> str | None:
    """The key or token; empty for a scheme that is not taken. With Basic it is the password, or the whole."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, text = value.partition(b" ")
            if takes_basic and scheme.lower() == b"basic":
                return _password(text.strip())
            return bearer(value.decode("latin-1"))
    return None


def _api_key(scope: Any) -> str | None:
    """Of the header x-api-key."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.strip().decode("latin-1"))
    return None


def _password(text: bytes) -> str:
    try:
        user, _, password = base64.b64decode(text, validate=True).decode("latin-1").partition(":")
    except ValueError:
        return ""
    return password or user


def _token_in_query(scope: Any) -> str | None:
    """EventSource sends no headers of its own."""
    found = parse_qs(scope["query_string"].decode("latin-1")).get("token")
    return found[0] if found else None


def _bootstrap_key(settings: Settings) -> str | None:
    """Raises ConfigError. Clients keep their keys and tokens in a variable of the same name: where the API is started
    from such a shell, these get no rights beyond their own."""
    if settings.treadle_key_file is None:
        return None if _is_of_client(settings.treadle_key) else settings.treadle_key
    if settings.treadle_key is not None:
        raise ConfigError("TREADLE_KEY_FILE: Expected either TREADLE_KEY or TREADLE_KEY_FILE, not both.")
    try:
        key = settings.treadle_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"TREADLE_KEY_FILE: {settings.treadle_key_file} cannot be read: {error}.") from None
    if len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"TREADLE_KEY_FILE: Expected at least {MIN_KEY_CHARS} printable characters without spaces in the file."
        )
    return key


def _is_of_client(key: str | None) -> bool:
    return key is not None and key.startswith(OF_CLIENTS)


async def _send_reconnect(send: Send) -> None:
    """EventSource gives up for good on any answer but 200, so it is told to come back when PostgreSQL answers."""
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-cache, no-transform")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": RECONNECT, "more_body": False})
