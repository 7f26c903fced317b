"""Access tokens: signed texts that a principal makes for a browser, with no more rights than its own.

A token is `trt_` and a JWT that is signed with the secret of the installation, so every replica can read it.
"""

import math
import time
from uuid import UUID

import jwt
import msgspec

from service.access.model import NewToken
from service.access.principal import Principal, Scope
from service.access.store import KeyStore
from service.errors import Forbidden, Unauthorized, Unprocessable

TOKEN_PREFIX = "trt_"
ALGORITHM = "HS256"
SECRET_SECONDS = 60.0  # after which a process reads the secret again
NOT_FOR_TOKENS = frozenset({"admin"})  # with it, a token could make a key that outlives it


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a token says. `exp` is in seconds since 1970; `key` is the key that made it, if one did."""

    tenant: str
    scopes: list[Scope]
    name: str
    exp: int
    subject: str | None = None
    agents: tuple[str, ...] | None = None
    thread_id: str | None = None
    message_id: UUID | None = None
    key: str | None = None
    tenant_since: int | None = None


def narrow(maker: Principal, new: NewToken) -> Principal:
    """The principal of a new token. Raises Unprocessable, and Forbidden where it would have more than its maker."""
    if new.thread_id is None and new.message_id is None and new.subject is None:
        raise Unprocessable("Send at least one of thread_id, message_id and subject.")
    if new.session_id is not None:
        raise Unprocessable("session_id is another name of thread_id: send one of them.")
    scopes = frozenset(new.scopes)
    if scopes & NOT_FOR_TOKENS:
        raise Unprocessable("scopes must not have admin: an access token cannot manage keys.")
    if missing := sorted(scopes - maker.scopes):
        raise Forbidden(f"The key or token lacks the scope {missing[0]}, so it cannot give it to an access token.")
    for name in ("subject", "thread_id", "message_id"):
        own, asked = getattr(maker, name), getattr(new, name)
        if own is not None and asked not in (None, own):
            raise Forbidden(f"The key or token is restricted to another {name}.")
    if maker.thread_id is not None and maker.subject is None and new.subject is not None:
        raise Forbidden("The thread of the token belongs to no subject.")
    expires_at = math.ceil(time.time() + new.expires_in)
    return msgspec.structs.replace(
        maker,
        scopes=scopes,
        name=maker.name if maker.name.startswith("token of ") else f"token of {maker.name}",
        subject=maker.subject or new.subject,
        thread_id=maker.thread_id or new.thread_id,
        message_id=maker.message_id or new.message_id,
        expires_at=expires_at if maker.expires_at is None else min(expires_at, maker.expires_at),
    )


class TokenSigner:
    """Signs and reads tokens with the secret that all processes share."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._secret = b""
        self._secret_until = -math.inf

    async def sign(self, principal: Principal) -> str:
        """The token of a principal that expires. Raises Unavailable, SchemaError."""
        return sign(principal, await self._current_secret())

    async def read(self, token: str) -> Principal:
        """The principal of a token; the key that made it is the caller's to check. Raises Unauthorized, Unavailable,
        SchemaError."""
        return read(token, await self._current_secret())

    async def _current_secret(self) -> bytes:
        if time.monotonic() >= self._secret_until:
            self._secret = await self._store.signing_secret()
            self._secret_until = time.monotonic() + SECRET_SECONDS
        return self._secret


def sign(principal: Principal, secret: bytes) -> str:
    assert principal.expires_at is not None
    claims = Claims(
        principal.tenant,
        sorted(principal.scopes),
        principal.name,
        math.floor(principal.expires_at),
        principal.subject,
        principal.agents,
        principal.thread_id,
        principal.message_id,
        principal.key_id,
        principal.tenant_since,
    )
    return TOKEN_PREFIX + jwt.encode(msgspec.to_builtins(claims), secret, algorithm=ALGORITHM)


def read(token: str, secret: bytes) -> Principal:
    """Raises Unauthorized."""
    try:
        payload = jwt.decode(
            token.removeprefix(TOKEN_PREFIX), secret, algorithms=[ALGORITHM], options={"require": ["exp"]}
        )
        claims = msgspec.convert(payload, Claims)
    except jwt.ExpiredSignatureError:
        raise Unauthorized("The access token has expired.") from None
    except (jwt.InvalidTokenError, msgspec.ValidationError):
        raise Unauthorized("The access token is not valid.") from None
    return Principal(
        claims.tenant,
        frozenset(claims.scopes),
        claims.name,
        subject=claims.subject,
        agents=claims.agents,
        thread_id=claims.thread_id,
        message_id=claims.message_id,
        key_id=claims.key,
        expires_at=claims.exp,
        tenant_since=claims.tenant_since,
    )
