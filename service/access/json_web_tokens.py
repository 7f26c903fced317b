"""JWTs of another issuer: how they are checked, and what their claims say of the caller."""

from pathlib import Path
from typing import Any, Protocol

import jwt
import msgspec

from service.access.key_sets import FileSource, KeySet, UrlSource, check_file
from service.access.principal import ALL_SCOPES, DEFAULT_TENANT, Principal, Scope
from service.config import KEY_ALGORITHMS, SECRET_ALGORITHMS, Settings
from service.errors import ConfigError, Unauthorized
from service.limits import MAX_SUBJECT_CHARS, MAX_TENANT_CHARS
from service.outbound import is_http_url

LEEWAY_SECONDS = 60  # that the clock of the issuer may differ
NAME_CHARS = 60  # of the subject, in the audit
INVALID_JWT_DETAIL = "The JWT is not valid."


class VerificationKeys(Protocol):
    async def find(self, key_id: str | None, algorithm: str) -> Any:
        """The key for a token with this header; None where the issuer has no such key. Raises KeysAway."""


class SharedSecret:
    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    async def find(self, key_id: str | None, algorithm: str) -> bytes:
        return self._secret


class JwtVerifier:
    """The algorithm must be one of JWT_ALGORITHMS, all of which are of the kind of the key: so no public key is taken
    for a shared secret, and `none` is never accepted."""

    def __init__(self, settings: Settings, keys: VerificationKeys) -> None:
        self._settings = settings
        self._keys = keys
        self._algorithms = frozenset(settings.accepted_jwt_algorithms)

    async def principal(self, token: str) -> Principal:
        """Raises Unauthorized, KeysAway."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise Unauthorized(INVALID_JWT_DETAIL) from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Unauthorized("The algorithm of the JWT is not accepted.")
        key = await self._keys.find(key_id, algorithm)
        if key is None:
            raise Unauthorized("The JWT is signed with an unknown key.")
        return self._principal_of(self._decode(token, key, algorithm))

    def _decode(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The JWT has expired.") from None
        except jwt.ImmatureSignatureError:
            raise Unauthorized("The JWT is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise Unauthorized("The JWT is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise Unauthorized("The JWT is of another issuer.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Unauthorized(INVALID_JWT_DETAIL) from None

    def _principal_of(self, claims: dict[str, Any]) -> Principal:
        settings = self._settings
        tenant = DEFAULT_TENANT
        if settings.jwt_tenant_claim is not None:
            tenant = _text(claims, settings.jwt_tenant_claim, MAX_TENANT_CHARS)
        subject = None
        if settings.jwt_subject_claim != "none":
            subject = _text(claims, settings.jwt_subject_claim, MAX_SUBJECT_CHARS)
        name = subject or str(claims.get("sub") or "")
        return Principal(
            tenant,
            _scopes(claims.get(settings.jwt_scope_claim)),
            f"jwt {name[:NAME_CHARS]}" if name.isprintable() and name else "jwt",
            subject=subject,
            expires_at=_end(claims) + LEEWAY_SECONDS,
        )


def build_verifier(settings: Settings) -> JwtVerifier | None:
    """None where the settings accept no JWTs. Raises ConfigError."""
    _check(settings)
    if settings.jwt_secret is not None:
        return JwtVerifier(settings, SharedSecret(settings.jwt_secret))
    if settings.jwt_jwks is None:
        return None
    if is_http_url(settings.jwt_jwks):
        return JwtVerifier(settings, KeySet(UrlSource(settings.jwt_jwks)))
    path = Path(settings.jwt_jwks)
    check_file(path)
    return JwtVerifier(settings, KeySet(FileSource(path)))


def _check(settings: Settings) -> None:
    if settings.jwt_jwks and settings.jwt_secret:
        raise ConfigError("JWT_SECRET: Expected either JWT_JWKS or JWT_SECRET, not both.")
    for name in ("jwt_issuer", "jwt_audience"):
        if (settings.jwt_jwks or settings.jwt_secret) and not getattr(settings, name):
            raise ConfigError(f"{name.upper()}: Expected a text where JWT_JWKS or JWT_SECRET is set.")
    fitting = SECRET_ALGORITHMS if settings.jwt_secret else KEY_ALGORITHMS
    if wrong := [name for name in settings.accepted_jwt_algorithms if name not in fitting]:
        kind = "JWT_SECRET" if settings.jwt_secret else "JWT_JWKS"
        raise ConfigError(f"JWT_ALGORITHMS: Expected some of {', '.join(fitting)} with {kind}, got {wrong[0]}.")


def _text(claims: dict[str, Any], name: str, most_chars: int) -> str:
    """Raises Unauthorized."""
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= most_chars or not value.isprintable():
        raise Unauthorized(f"The claim {name} of the JWT must be a text of 1 to {most_chars} printable characters.")
    return value


def _end(claims: dict[str, Any]) -> float:
    """Raises Unauthorized."""
    try:
        return float(claims["exp"])
    except OverflowError:  # an integer beyond 1.8e308
        raise Unauthorized(INVALID_JWT_DETAIL) from None


def _scopes(value: Any) -> frozenset[Scope]:
    """Those that Treadle knows, of a text with spaces or of a list."""
    names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    known = [name for name in names if isinstance(name, str) and name in ALL_SCOPES]
    return msgspec.convert(known, frozenset[Scope])
