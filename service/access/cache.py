"""The keys that an API process has met, in memory: a request with a known key asks PostgreSQL nothing.

A hint names the keys that changed, and they are read again at once. Were all hints lost, the keys in use are read again
every REFRESH_SECONDS in one query; a key that is older than MAX_AGE_SECONDS is read before it is used.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from service.access.principal import Principal
from service.access.secrets import is_same
from service.access.store import KeyStore, StoredKey
from service.access.tenant_cache import TenantCache
from service.batching import Batcher
from service.db.notifier import EVERYTHING
from service.errors import TreadleError

log = logging.getLogger(__name__)

MAX_KEYS = 10_000
REFRESH_SECONDS = 2.0
MAX_AGE_SECONDS = 5.0
UNUSED_SECONDS = 300.0  # after which a key is forgotten
USES_SECONDS = 30.0  # between two notes of the keys that were used
LOOKUP_KEYS = 500


class CachedKey:
    """A key as it was read last, and the principal of its callers."""

    def __init__(self, stored: StoredKey) -> None:
        self.read_at = self.used_at = time.monotonic()
        self.take(stored)

    def take(self, stored: StoredKey) -> None:
        self.stored = stored
        self.read_at = time.monotonic()
        name = f"key {stored.key_id}" + (f" ({stored.name})" if stored.name else "")
        expires_at = None if stored.seconds_left is None else time.time() + stored.seconds_left
        self.principal = Principal(
            stored.tenant, stored.scopes, name, agents=stored.agents, key_id=stored.key_id, expires_at=expires_at
        )

    def accepts(self, secret_hash: bytes) -> bool:
        """Whether this is the secret, or the one before the last rotation while that is still valid."""
        stored = self.stored
        if is_same(secret_hash, stored.secret_hash):
            return True
        left = stored.former_seconds_left
        return left is not None and time.monotonic() - self.read_at < left and is_same(secret_hash, stored.former_hash)


class KeyCache:
    """`on_end` is called when a key was revoked, so that the open streams of its callers look. `tenants` are kept young
    in the same loop."""

    def __init__(self, store: KeyStore, tenants: TenantCache, on_end: Callable[[], None]) -> None:
        self._store = store
        self._tenants = tenants
        self._on_end = on_end
        self._keys: dict[str, CachedKey] = {}  # the first one was used longest ago
        self._lookups: Batcher[str, StoredKey | None] = Batcher(self._look_up, limit=LOOKUP_KEYS)
        self._used: set[str] = set()
        self._changed: set[str] = set()  # to be read again
        self._wake = asyncio.Event()
        self._uses_noted_at = time.monotonic()

    async def check(self, key_id: str, secret_hash: bytes) -> CachedKey | None:
        """The key, if this is its secret; None where it is not, or there is no such key. Raises Unavailable,
        SchemaError."""
        cached = await self.find(key_id)
        if cached is not None and not cached.accepts(secret_hash):  # it may have been rotated a moment ago
            cached = await self.find(key_id, again=True)
        return cached if cached is not None and cached.accepts(secret_hash) else None

    async def find(self, key_id: str, *, again: bool = False) -> CachedKey | None:
        """None where there is no such key. A revoked or expired one is found. `again`: read it in any case. Raises
        Unavailable, SchemaError."""
        cached = self._keys.get(key_id)
        if again or cached is None or time.monotonic() - cached.read_at > MAX_AGE_SECONDS:
            stored = await self._lookups.submit(key_id)
            if stored is None:
                self._keys.pop(key_id, None)
                return None
            cached = self._keep(stored)
        self._touch(cached)
        return cached

    def note_use(self, key_id: str) -> None:
        """A caller has proved that it has this key."""
        self._used.add(key_id)

    def is_revoked(self, key_id: str) -> bool:
        """As far as this process knows. The open streams of a key keep it in the cache by asking."""
        cached = self._keys.get(key_id)
        if cached is None:
            self._changed.add(key_id)
            return False
        self._touch(cached)
        return cached.stored.revoked

    def receive(self, payload: str) -> None:
        """Read the keys again that a hint on treadle_keys names."""
        if payload == EVERYTHING:
            self.refresh_all()
            return
        self._changed.update(key_id for key_id in payload.split(",") if key_id in self._keys)
        if self._changed:
            self._wake.set()

    def refresh_all(self) -> None:
        """Hints may have been lost: read all keys again."""
        self._changed.update(self._keys)
        self._wake.set()

    async def run(self) -> None:
        """Keep the keys young until cancelled."""
        while True:
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._changed.update(self._keys)
            self._wake.clear()
            try:
                await self._refresh()
                await self._note_uses()
            except TreadleError as error:
                log.log(error.log_level, "keys cannot be read, trying again", extra={"error": str(error)})
            except Exception:
                log.exception("keys cannot be read, trying again")

    async def _refresh(self) -> None:
        horizon = time.monotonic() - UNUSED_SECONDS
        for key_id in [key_id for key_id, cached in self._keys.items() if cached.used_at < horizon]:
            del self._keys[key_id]
        changed = list(self._changed)
        self._changed.clear()
        for start in range(0, len(changed), LOOKUP_KEYS):
            await self._read(changed[start : start + LOOKUP_KEYS])
        if await self._tenants.refresh():
            self._on_end()

    async def _read(self, key_ids: Sequence[str]) -> None:
        found = await self._store.find(key_ids)
        ended = False
        for key_id in key_ids:
            cached, stored = self._keys.get(key_id), found.get(key_id)
            if stored is None and cached is not None:  # deleted with its tenant, or to make room for a new key
                stored = msgspec.structs.replace(cached.stored, revoked=True)
            if stored is not None:
                ended = ended or (stored.revoked and not (cached and cached.stored.revoked))
                self._keep(stored)
        if ended:
            self._on_end()

    async def _note_uses(self) -> None:
        if self._used and time.monotonic() - self._uses_noted_at >= USES_SECONDS:
            used, self._used = self._used, set()
            self._uses_noted_at = time.monotonic()
            await self._store.note_uses(list(used))

    async def _look_up(self, key_ids: Sequence[str], _: bool) -> list[StoredKey | None]:
        found = await self._store.find(list(set(key_ids)))
        return [found.get(key_id) for key_id in key_ids]

    def _keep(self, stored: StoredKey) -> CachedKey:
        cached = self._keys.get(stored.key_id)
        if cached is None:
            cached = self._keys[stored.key_id] = CachedKey(stored)
            while len(self._keys) > MAX_KEYS:
                del self._keys[next(iter(self._keys))]
        else:
            cached.take(stored)
        return cached

    def _touch(self, cached: CachedKey) -> None:
        """Move it to the end of the keys in use."""
        cached.used_at = time.monotonic()
        self._keys[cached.stored.key_id] = self._keys.pop(cached.stored.key_id, cached)
