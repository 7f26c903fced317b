"""Webhooks in PostgreSQL: the endpoints of a tenant, and what a worker needs to deliver."""

from typing import Any
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.db.pool import Database
from service.errors import NotFound
from service.patience import DIRECT_CALLS, HELD_SECONDS, Patience
from service.webhooks.model import CreatedWebhook, NewWebhook, Outcome, PushAddress, Secret, Webhook, WebhookChanges

WEBHOOKS = """
    select webhook_id, url, events, agents, queues, format, description, enabled, disabled_reason, created_at,
        former_until, last_at, last_message_id, last_status, last_error, succeeded_at, failing_since
    from treadle.list_webhooks(tenant => $1, named => $2)"""


class Post(msgspec.Struct, frozen=True):
    """A delivery that is to be made, as treadle.post_of returns it. `refusal`: why it must not be made; the fields
    after `tenant` are then of no use."""

    tenant: str
    webhook: str | None
    url: str
    headers: dict[str, str]
    secrets: list[str]
    body: str
    traceparent: str | None
    failures: int
    last_attempt: bool
    refusal: str | None


class WebhookStore:
    """`actor` is the principal's name for the audit."""

    def __init__(self, database: Database, *, reads: Database | None = None) -> None:
        self._database = database
        self._reads = reads or database

    async def create(self, actor: str, tenant: str, new: NewWebhook) -> CreatedWebhook:
        """Raises Refused."""
        row = await self._database.fetchrow(
            "select webhook_id, secret from treadle.create_webhook(url => $1, events => $2, agents => $3,"
            " queues => $4, format => $5, description => $6, enabled => $7, tenant => $8, actor => $9)",
            new.url,
            new.events,
            new.agents,
            new.queues,
            new.format,
            new.description,
            new.enabled,
            tenant,
            actor,
            repeatable=False,
        )
        assert row is not None
        return CreatedWebhook(row["webhook_id"], row["secret"], new.url, new.events, new.format)

    async def all(self, tenant: str) -> list[Webhook]:
        """The newest first."""
        return [_webhook(row) for row in await self._reads.fetch(WEBHOOKS, tenant, None)]

    async def get(self, tenant: str, webhook_id: UUID) -> Webhook:
        """Raises NotFound."""
        row = await self._reads.fetchrow(WEBHOOKS, tenant, webhook_id)
        if row is None:
            raise NotFound(f"There is no webhook {webhook_id}.")
        return _webhook(row)

    async def change(self, actor: str, tenant: str, webhook_id: UUID, changes: WebhookChanges) -> None:
        """Raises NotFound, Unprocessable, Busy."""
        await self._database.fetchval(
            "select treadle.change_webhook($1, $2::jsonb, tenant => $3, actor => $4)",
            webhook_id,
            msgspec.json.encode(changes).decode(),
            tenant,
            actor,
        )

    async def delete(self, actor: str, tenant: str, webhook_id: UUID) -> None:
        """Raises NotFound, Busy."""
        await self._database.fetchval(
            "select treadle.delete_webhook($1, tenant => $2, actor => $3)", webhook_id, tenant, actor, repeatable=False
        )

    async def rotate(self, actor: str, tenant: str, webhook_id: UUID, grace_seconds: float) -> Secret:
        """The new secret; raises NotFound, Busy."""
        row = await self._database.fetchrow(
            "select secret, former_until from treadle.rotate_webhook($1, $2, tenant => $3, actor => $4)",
            webhook_id,
            grace_seconds,
            tenant,
            actor,
            repeatable=False,
        )
        return msgspec.convert(row, Secret, from_attributes=True)

    async def test(self, actor: str, tenant: str, webhook_id: UUID) -> UUID:
        """Send a test event; the id of its delivery. Raises NotFound, Busy."""
        message_id: UUID = await self._database.fetchval(
            "select treadle.test_webhook($1, tenant => $2, actor => $3)", webhook_id, tenant, actor, repeatable=False
        )
        return message_id

    async def callback_secret(self, actor: str, tenant: str, grace_seconds: float | None = None) -> Secret:
        """What signs the callbacks of the tenant's messages; with `grace_seconds` a new one. Raises Refused."""
        row = await self._database.fetchrow(
            "select secret, former_until from treadle.callback_secret(tenant => $1, grace_seconds => $2, actor => $3)",
            tenant,
            grace_seconds,
            actor,
            repeatable=False,
        )
        return msgspec.convert(row, Secret, from_attributes=True)


class PushStore:
    """Addresses that are told of one message. The callers have made sure that the principal sees the message."""

    def __init__(self, database: Database, *, reads: Database | None = None) -> None:
        self._database = database
        self._reads = reads or database
        self._changes = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)

    async def is_offered(self) -> bool:
        """Whether a worker delivers, or has done so."""
        return bool(await self._reads.fetchval("select treadle.delivers_webhooks()"))

    async def set(self, principal: Principal, message_id: UUID, address: PushAddress) -> None:
        """Raises NotFound, Unprocessable, Busy."""
        await self._changes.run(
            lambda _: self._database.fetchval(
                "select treadle.set_push_config($1, $2, $3, token => $4, scheme => $5, credentials => $6, tenant => $7,"
                " reach => $8::jsonb, patient => false)",
                message_id,
                address.config_id,
                address.url,
                address.token,
                address.scheme,
                address.credentials,
                principal.tenant,
                principal.reach,
            ),
            group=principal.tenant,
            key=message_id,
        )

    async def all(self, principal: Principal, message_id: UUID) -> list[PushAddress]:
        """The oldest first."""
        rows = await self._reads.fetch(
            "select config_id, url, token, scheme from treadle.list_push_configs($1, tenant => $2)",
            message_id,
            principal.tenant,
        )
        return [PushAddress(*row) for row in rows]

    async def delete(self, principal: Principal, message_id: UUID, config_id: str) -> None:
        """Raises Busy."""
        await self._changes.run(
            lambda _: self._database.fetchval(
                "select treadle.delete_push_config($1, $2, tenant => $3)", message_id, config_id, principal.tenant
            ),
            group=principal.tenant,
            key=message_id,
        )


class PostStore:
    """Of a worker that delivers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def offer(self) -> None:
        """Make sure that there is a queue of deliveries."""
        await self._database.fetchval("select treadle.offer_webhooks()")

    async def find(self, message_id: str) -> Post:
        row = await self._database.fetchrow(
            f"select {', '.join(Post.__struct_fields__).replace('headers', 'headers::text')}"
            " from treadle.post_of($1::uuid)",
            UUID(message_id),
        )
        assert row is not None
        fields: dict[str, Any] = dict(row)
        if row["refusal"] is not None:
            fields |= {"url": "", "secrets": [], "body": ""}
        return msgspec.convert(
            fields | {"headers": msgspec.json.decode(row["headers"] or "{}"), "webhook": _text(row["webhook"])}, Post
        )

    async def note(self, post: Post, message_id: str, *, status: int | None, error: str | None, gone: bool) -> None:
        await self._database.fetchval(
            "select treadle.note_post($1::uuid, $2::uuid, $3, $4, $5, $6)",
            None if post.webhook is None else UUID(post.webhook),
            UUID(message_id),
            status,
            error,
            gone,
            post.last_attempt,
        )

    async def drop_address(self, message_id: str, url: str) -> None:
        """The address of push notifications to which a delivery went wants no more."""
        await self._database.fetchval("select treadle.drop_push_address($1, $2)", UUID(message_id), url)


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _webhook(row: Any) -> Webhook:
    last = None
    if row["last_at"] is not None:
        last = Outcome(
            row["last_at"],
            row["last_message_id"],
            row["last_status"],
            row["last_error"],
            row["succeeded_at"],
            row["failing_since"],
        )
    fields = {name: row[name] for name in Webhook.__struct_fields__ if name != "last_delivery"}
    return msgspec.convert(fields | {"last_delivery": last}, Webhook)
