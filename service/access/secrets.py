"""The text of an API key, `trd_<id>_<secret>`: how it is made, read and compared."""

import hashlib
import hmac
import re
import secrets
import string
from typing import NamedTuple

KEY_PREFIX = "trd_"
ID_CHARS = 12
SECRET_BYTES = 24
_KEY = re.compile(rf"{KEY_PREFIX}([0-9a-z]{{{ID_CHARS}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")
_ALPHABET = string.digits + string.ascii_lowercase


class KeyText(NamedTuple):
    key_id: str
    text: str  # the whole key; shown once
    secret_hash: bytes


def make_key() -> KeyText:
    return renew_key("".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARS)))


def renew_key(key_id: str) -> KeyText:
    """A key with this id and a new secret."""
    secret = secrets.token_hex(SECRET_BYTES)
    return KeyText(key_id, f"{KEY_PREFIX}{key_id}_{secret}", digest(secret))


def parse_key(text: str) -> tuple[str, bytes] | None:
    """The id of a key and the hash of its secret; None where the text is no key."""
    found = _KEY.fullmatch(text)
    return (found[1], digest(found[2])) if found else None


def digest(secret: str) -> bytes:
    """Without a salt: the secret is random and longer than any table of hashes reaches."""
    return hashlib.sha256(secret.encode()).digest()


def is_same(one: bytes, other: bytes | None) -> bool:
    return other is not None and hmac.compare_digest(one, other)
