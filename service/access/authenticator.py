"""Turns what a caller sends into its principal, and says when that ends."""

import hashlib
import time
from typing import Protocol

import msgspec

from service.access.cache import KeyCache
from service.access.json_web_tokens import JwtVerifier
from service.access.principal import AUTH_OFF, Principal, Scope
from service.access.secrets import KEY_PREFIX, digest, is_same, parse_key
from service.access.tenant_cache import TenantCache
from service.access.tokens import TOKEN_PREFIX, TokenSigner
from service.errors import Forbidden, Unauthorized

MAX_CREDENTIAL_CHARS = 10_000
INVALID_KEY = "The key is not valid."
TENANT_DELETED_DETAIL = "The tenant was deleted."
MISSING_KEY_DETAIL = "Send a key or an access token as Authorization: Bearer <key>."


class Access(Protocol):
    """How routes and sockets know their callers."""

    required: bool

    async def identify(self, credential: str | None) -> Principal:
        """The principal of a key or token (None: without one). Raises Unauthorized, Unavailable, SchemaError."""

    def end_of(self, principal: Principal) -> str | None:
        """Why the principal may do nothing more, as a sentence; None: it may go on."""


class OpenAccess:
    """AUTH is off: every caller may do everything, and what it sends is not read."""

    required = False

    async def identify(self, credential: str | None) -> Principal:
        return AUTH_OFF

    def end_of(self, principal: Principal) -> str | None:
        return None


class Authenticator:
    required = True

    def __init__(
        self,
        cache: KeyCache,
        tokens: TokenSigner,
        tenants: TenantCache,
        *,
        bootstrap_key: str | None = None,
        jwts: JwtVerifier | None = None,
    ) -> None:
        self._cache = cache
        self._tokens = tokens
        self._tenants = tenants
        self._jwts = jwts
        self._bootstrap_hash = None if bootstrap_key is None else digest(bootstrap_key)
        self._bootstrap_id = None if bootstrap_key is None else _fingerprint(bootstrap_key)

    async def identify(self, credential: str | None) -> Principal:
        if not credential:
            raise Unauthorized(MISSING_KEY_DETAIL)
        if len(credential) > MAX_CREDENTIAL_CHARS:
            raise Unauthorized("The key or token is too long.")
        if is_same(digest(credential), self._bootstrap_hash):
            return self._bootstrap()
        if credential.startswith(TOKEN_PREFIX):
            return await self._of_token(credential)
        if credential.startswith(KEY_PREFIX):
            return await self._of_key(credential)
        if self._jwts is not None and credential.count(".") == 2:
            return await self._of_jwt(await self._jwts.principal(credential))
        raise Unauthorized(INVALID_KEY)

    def end_of(self, principal: Principal) -> str | None:
        if principal.expires_at is not None and time.time() >= principal.expires_at:
            return "The key or token has expired."
        key_id = principal.key_id
        if key_id is not None and key_id != self._bootstrap_id and self._cache.is_revoked(key_id):
            return "The key is revoked."
        if principal.tenant_since is not None and self._tenants.is_gone(principal.tenant, principal.tenant_since):
            return TENANT_DELETED_DETAIL
        return None

    def _bootstrap(self) -> Principal:
        return Principal(AUTH_OFF.tenant, AUTH_OFF.scopes, "key of TREADLE_KEY", key_id=self._bootstrap_id)

    async def _of_key(self, text: str) -> Principal:
        parsed = parse_key(text)
        cached = None if parsed is None else await self._cache.check(*parsed)
        if cached is None:
            raise Unauthorized(INVALID_KEY)
        if reason := self.end_of(cached.principal):
            raise Unauthorized(reason)
        self._cache.note_use(cached.stored.key_id)
        return cached.principal

    async def _of_token(self, text: str) -> Principal:
        principal = await self._tokens.read(text)
        key_id = principal.key_id
        if key_id is not None and key_id != self._bootstrap_id and await self._cache.find(key_id) is None:
            raise Unauthorized("The key that made the access token does not exist.")
        if key_id is None and await self._tenants.since(principal.tenant) != principal.tenant_since:
            raise Unauthorized(TENANT_DELETED_DETAIL)
        if reason := self.end_of(principal):
            raise Unauthorized(reason)
        return principal

    async def _of_jwt(self, principal: Principal) -> Principal:
        since = await self._tenants.since(principal.tenant)
        if since is None:
            raise Unauthorized("The JWT is for a tenant that does not exist.")
        return msgspec.structs.replace(principal, tenant_since=since)


def bearer(header: str) -> str:
    """The key or token in a header Authorization; empty for another scheme."""
    scheme, _, credential = header.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def require(principal: Principal, scope: Scope) -> None:
    """Raises Forbidden."""
    if scope not in principal.scopes:
        raise Forbidden(f"The key or token lacks the scope {scope}.")


def check_access(access: Access, principal: Principal) -> None:
    """Check again, in a call that waits, that the key or token is still valid. Raises Unauthorized."""
    if reason := access.end_of(principal):
        raise Unauthorized(reason)


def _fingerprint(key: str) -> str:
    """Names the key of TREADLE_KEY in the tokens that it makes: with another one they end."""
    return f"TREADLE_KEY {hashlib.sha256(b'name ' + key.encode()).hexdigest()[:12]}"
