"""Keys in PostgreSQL, and what access tokens need of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from service.access.model import CreatedKey, Key, NewKey
from service.access.principal import Principal, Scope
from service.access.secrets import make_key, renew_key
from service.cursors import NamedPosition
from service.db.pages import read_page
from service.db.pool import Database
from service.db.rows import from_row

KEY_PAGE = f"""
    select {", ".join(Key.__struct_fields__)}
    from treadle.list_keys(of_tenant => $1, quantity => $2, before_at => $3, before_key => $4)"""


class StoredKey(msgspec.Struct, frozen=True):
    """A row of treadle.find_keys: what checks the callers with this key."""

    key_id: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    agents: tuple[str, ...] | None
    secret_hash: bytes
    former_hash: bytes | None
    revoked: bool
    seconds_left: float | None
    former_seconds_left: float | None


class KeyStore:
    """`tenant` None means all tenants; `actor` is the principal's name for the audit. `changes` and `reads` are pools
    of their own, so that what clients ask for delays no check of a key; by default all calls share one pool."""

    def __init__(self, database: Database, *, changes: Database | None = None, reads: Database | None = None) -> None:
        self._database = database
        self._changes = changes or database
        self._reads = reads or database

    async def create(self, actor: str, tenant: str, new: NewKey) -> CreatedKey:
        """Raises NotFound where the tenant is unknown."""
        key = make_key()
        row = await self._changes.fetchrow(
            "select expires_at from treadle.create_key(key_id => $1, secret_hash => $2, tenant => $3, name => $4,"
            " scopes => $5, agents => $6, expires_seconds => $7, actor => $8)",
            key.key_id,
            key.secret_hash,
            tenant,
            new.name,
            new.scopes,
            new.agents,
            new.expires_in,
            actor,
            repeatable=False,
        )
        assert row is not None
        return CreatedKey(key.key_id, key.text, tenant, new.name, new.scopes, new.agents, row["expires_at"])

    async def page(
        self, tenant: str | None, before: NamedPosition | None, limit: int
    ) -> tuple[list[Key], NamedPosition | None]:
        """The newest before a place, the newest first, and the place of the last one where others follow."""
        rows, following = await read_page(
            lambda place, quantity: self._reads.fetch(KEY_PAGE, tenant, quantity, *(place or (None, None))),
            lambda row: NamedPosition(row["created_at"], row["key_id"]),
            after=before,
            limit=limit,
        )
        return msgspec.convert(rows, list[Key]), following

    async def revoke(self, actor: str, tenant: str | None, key_id: str) -> datetime:
        """Since when it is revoked; raises NotFound, Busy."""
        revoked_at: datetime = await self._changes.fetchval(
            "select treadle.revoke_key(key_id => $1, of_tenant => $2, actor => $3)", key_id, tenant, actor
        )
        return revoked_at

    async def rotate(self, actor: str, tenant: str | None, key_id: str, grace_seconds: float) -> CreatedKey:
        """The key with its new secret; raises NotFound, Conflict, Busy."""
        key = renew_key(key_id)
        row = await self._changes.fetchrow(
            "select tenant, name, scopes, agents, expires_at, former_until from treadle.rotate_key("
            "key_id => $1, secret_hash => $2, grace_seconds => $3, of_tenant => $4, actor => $5)",
            key_id,
            key.secret_hash,
            grace_seconds,
            tenant,
            actor,
            repeatable=False,
        )
        assert row is not None
        return from_row(CreatedKey, row, key_id=key_id, key=key.text)

    async def find(self, key_ids: Sequence[str]) -> dict[str, StoredKey]:
        """Those that exist, by id."""
        rows = await self._database.fetch(
            f"select {', '.join(StoredKey.__struct_fields__)} from treadle.find_keys($1)", key_ids
        )
        return {row["key_id"]: msgspec.convert(dict(row), StoredKey) for row in rows}

    async def find_tenants(self, tenants: Sequence[str]) -> dict[str, int]:
        """When those that exist were created, in microseconds since 1970."""
        rows = await self._database.fetch("select tenant, since from treadle.find_tenants($1)", tenants)
        return {row["tenant"]: row["since"] for row in rows}

    async def owner_of_thread(self, principal: Principal, thread_id: str) -> str | None:
        """The subject to which a thread belongs that the principal sees."""
        owner: str | None = await self._reads.fetchval(
            "select t.owner from treadle.thread_overview t where t.tenant = $1 and t.thread_id = $2"
            " and treadle._sees_thread(reach => $3::jsonb, owner => t.owner, agents => t.agents,"
            " thread_id => t.thread_id)",
            principal.tenant,
            thread_id,
            principal.reach,
        )
        return owner

    async def note_uses(self, key_ids: Sequence[str]) -> None:
        await self._database.fetchval("select treadle.note_key_uses($1)", key_ids)

    async def signing_secret(self) -> bytes:
        secret: bytes = await self._database.fetchval("select treadle.signing_secret()")
        return secret

    async def note_token(self, principal: Principal, target: str, details: dict[str, Any]) -> None:
        """Write in the audit that the principal made an access token."""
        await self._reads.fetchval(
            "select treadle.note_token(actor => $1, tenant => $2, target => $3, details => $4)",
            principal.name,
            principal.tenant,
            target,
            msgspec.json.encode(details).decode(),
            repeatable=False,
        )
