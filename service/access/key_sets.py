"""The public keys of an issuer of JWTs (a JWKS), from a file or a URL, kept for some minutes.

A token that names an unknown key makes the set be read again, for its issuer may have a new key; but at most once in
AGAIN_SECONDS, so that made-up names cost the issuer nothing.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any, Protocol

import httpx2
import jwt
import msgspec

from service.errors import ConfigError, KeysAway

log = logging.getLogger(__name__)

KEPT_SECONDS = 300.0
AGAIN_SECONDS = 10.0  # between two readings, also after one that failed
FETCH_SECONDS = 5.0
MAX_BYTES = 1_000_000

Key = dict[str, Any]


def check_file(path: Path) -> None:
    """Warn where the file cannot be read now, for it may come later. Raises ConfigError where it never can."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"JWT_JWKS: Expected a URL or the path of a file, got {path}.")
    try:
        _parse(path.read_bytes())
    except (OSError, ValueError) as error:
        log.warning("JWT_JWKS cannot be read: no JWT is accepted until it can", extra={"error": str(error)})


class Source(Protocol):
    async def read(self) -> bytes:
        """The text of the JWKS; raises OSError, httpx2.HTTPError, ValueError."""


class FileSource:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> bytes:
        return await asyncio.to_thread(self._path.read_bytes)


class UrlSource:
    def __init__(self, url: str) -> None:
        self._url = url

    async def read(self) -> bytes:
        text = b""
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx2.AsyncClient() as client,
            client.stream("GET", self._url, headers={"Accept": "application/json"}) as answer,
        ):
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                text += piece
                if len(text) > MAX_BYTES:
                    raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return text


class KeySet:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._keys: list[Key] | None = None
        self._read_at = self._tried_at = -KEPT_SECONDS
        self._reading = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names, for this algorithm; None where the issuer has no such key. A token that names
        none is for the only key of its set.

        Raises KeysAway where no set was read so far.
        """
        if self._keys is None:
            await self._read()
        elif time.monotonic() - self._read_at > KEPT_SECONDS and self._may_read:
            self._refresh = asyncio.create_task(self._read())  # the keys so far are used meanwhile
        if not (found := self._match(key_id)) and self._may_read:
            await self._read()
            found = self._match(key_id)
        if self._keys is None:
            raise KeysAway("The keys of JWT_JWKS cannot be read: try again.")
        prepared = (_prepare(key, algorithm) for key in found)
        return next((key for key in prepared if key is not None), None)

    @property
    def _may_read(self) -> bool:
        return time.monotonic() - self._tried_at >= AGAIN_SECONDS

    def _match(self, key_id: str | None) -> list[Key]:
        """Keys of several kinds may have one id."""
        keys = self._keys or []
        if key_id is None:
            return keys if len(keys) == 1 else []
        return [key for key in keys if key.get("kid") == key_id]

    async def _read(self) -> None:
        async with self._reading:
            if not self._may_read:  # another request has read it meanwhile
                return
            self._tried_at = time.monotonic()
            try:
                self._keys = _parse(await self._source.read())
                self._read_at = time.monotonic()
            except (OSError, httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
                log.warning("JWT_JWKS cannot be read", extra={"error": str(error) or type(error).__name__})


def _parse(text: bytes) -> list[Key]:
    """The keys that sign; raises ValueError."""
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"it is no JSON object: {error}") from None
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise ValueError("it has no list of keys")
    return [key for key in keys if isinstance(key, dict) and _verifies(key)]


def _verifies(key: Key) -> bool:
    operations = key.get("key_ops", ["verify"])
    return key.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _prepare(key: Key, algorithm: str) -> jwt.PyJWK | None:
    """The key for this algorithm, unless it names another or is of another kind."""
    if key.get("alg", algorithm) != algorithm:
        return None
    try:
        return jwt.PyJWK(key, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
