"""Topics in PostgreSQL: declare, publish, read."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid

from service import telemetry
from service.access.principal import Principal
from service.batching import Batcher
from service.db.notifier import RECORDS, Notifier
from service.db.pages import read_page
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import BeyondEnd, Busy, Forbidden, NotFound
from service.limits import JSON_PAGE_BYTES, MAX_BATCH_RECORDS
from service.patience import DIRECT_CALLS, HELD_SECONDS, Patience
from service.topics.model import (
    Declared,
    NewRecord,
    NewTopic,
    Publication,
    Published,
    Reader,
    Record,
    RecordPage,
    RecordPlace,
    Topic,
)

# How long a publish waits for each lock: a login of its tenant can hold the charge of the tenant, or a record_id.
LOCK_TIMEOUT, PATIENT_LOCK_TIMEOUT = "20ms", "100ms"

PUBLISH = f"""
    select {", ".join(Published.__struct_fields__)}
    from treadle.publish_many(
        topic => $1, records => $2::jsonb, tenant => $3, notify => $4, reach => $5::jsonb, autocommit => true,
        lock_timeout => $6)
    order by n"""
# One row without a record says where the topic ends, also if nothing is left to read.
READ = """
    select b.first_offset, b.next_offset as end_offset,
        r."offset", r.record_id, r.key, r.headers::text, r.value::text, r.schema_id, r.created_at
    from treadle.topic_bounds(topic => $1, tenant => $2, reach => $3::jsonb) b
    left join lateral treadle.read_records(
        topic => $1, start => $4, quantity => $5, max_bytes => $6, tenant => $2, reach => $3::jsonb) r on true
    order by r."offset\""""
TOPICS = """
    select t.topic, t.retention_hours, t.max_record_bytes, t.schema_subject, t.first_offset, t.next_offset, t.bytes,
        t.records_per_minute, t.created_at, t.subscriptions::text
    from treadle.topic_overview t
    where t.tenant = $1 and $2::jsonb is null"""
TOPIC = f"{TOPICS} and t.topic = $3"
# The names come first: the view would count for all topics before they are sorted.
TOPIC_PAGE = f"""
    select v.*
    from treadle.topic_names(after => $3, quantity => $4, tenant => $1) n (topic)
    cross join lateral ({TOPICS} and t.topic = n.topic limit 1) v
    order by n.topic"""


RECORD_BYTES = 20_000  # for each of which a request counts for one record more, so that a batch has about 20 MB
PUBLISH_CALLS = 2  # batches at once, each of another tenant: a large one holds up no other tenant


class Request(NamedTuple):
    """What one call publishes: so many records, as JSON with commas between them. It waits for its batch."""

    principal: Principal
    topic: str
    quantity: int
    text: bytes


class TopicStore:
    """`reads` and `lists` are pools of their own, so that slow reads and lists do not delay publishers; by default all
    share one pool."""

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        *,
        reads: Database | None = None,
        lists: Database | None = None,
        changes: Database | None = None,
    ) -> None:
        self._database = database
        self._changes = changes or database
        self._reads = reads or database
        self._lists = lists or self._reads
        self._notifier = notifier
        self._publishes: Batcher[Request, list[Published]] = Batcher(
            self._publish,
            limit=MAX_BATCH_RECORDS,
            calls=PUBLISH_CALLS,
            weigh=lambda request: request.quantity + len(request.text) // RECORD_BYTES,
            group_by=lambda request: (request.principal.tenant, request.topic),
            owned_by=lambda request: request.principal.tenant,
            must_run_alone=lambda request: request.principal.reach is not None,
            patience=Patience(seconds=HELD_SECONDS, repetitions=None),
            measure=lambda request: len(request.text),
        )
        self._keyed = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)

    async def declare(self, principal: Principal, topic: str, declared: NewTopic) -> Declared:
        """Create the topic, or change it. Raises Forbidden, NotFound, Conflict, Unprocessable, Busy."""
        require_all(principal)
        done: Declared = await self._changes.fetchval(
            "select treadle.create_topic($1, $2, $3, $4, tenant => $5, actor => $6)",
            topic,
            declared.retention_hours,
            declared.max_record_bytes,
            declared.schema_subject,
            principal.tenant,
            principal.name,
        )
        return done

    async def delete(self, principal: Principal, topic: str) -> None:
        """Raises Forbidden, NotFound."""
        require_all(principal)
        await self._changes.fetchval(
            "select treadle.delete_topic($1, tenant => $2, actor => $3)", topic, principal.tenant, principal.name
        )

    async def page(self, principal: Principal, after: str | None, limit: int) -> tuple[list[Topic], str | None]:
        """Those behind the name `after`, by name, and the name of the last one where others follow."""
        rows, following = await read_page(
            lambda name, quantity: self._lists.fetch(
                TOPIC_PAGE, principal.tenant, principal.reach, name or "", quantity
            ),
            lambda row: str(row["topic"]),
            after=after,
            limit=limit,
        )
        return [from_row(Topic, row, subscriptions=_readers(row["subscriptions"])) for row in rows], following

    async def get(self, principal: Principal, topic: str) -> Topic:
        """Raises NotFound."""
        row = await self._reads.fetchrow(TOPIC, principal.tenant, principal.reach, topic)
        if row is None:
            raise NotFound(f"There is no topic {topic!r}.")
        return from_row(Topic, row, subscriptions=_readers(row["subscriptions"]))

    async def publish(
        self,
        principal: Principal,
        topic: str,
        records: Sequence[NewRecord],
        schema_ids: Sequence[int | None] | None = None,
    ) -> list[Published]:
        """Publish all or none, in one transaction with the calls that arrive at the same time. `schema_ids`: the schema
        that each value satisfies. Raises NotFound, Forbidden, Conflict, Unprocessable,
        Busy."""
        text = msgspec.json.encode(_publications(records, schema_ids))[1:-1]
        return await self._publishes.submit(Request(principal, topic, len(records), text))

    async def publish_once(
        self,
        principal: Principal,
        key: str,
        request_hash: bytes,
        topic: str,
        records: Sequence[NewRecord],
        schema_ids: Sequence[int | None] | None = None,
    ) -> list[Published]:
        """Publish under an Idempotency-Key: a repeat gets the first answer. Raises Unprocessable for a key that was
        used with another request, and Busy."""
        text = _encode(_publications(records, schema_ids))
        answer: str = await self._keyed.run(
            lambda _: self._database.fetchval(
                "select treadle.publish_once($1, $2, $3, $4::jsonb, $5, reach => $6::jsonb, autocommit => true,"
                " patient => false)::text",
                key,
                request_hash,
                topic,
                text,
                principal.tenant,
                principal.reach,
            ),
            key=(principal.tenant, principal.reach, key),
            characters=len(text),
            group=principal.tenant,
        )
        self._notifier.hint(RECORDS, "*")
        return msgspec.json.decode(answer, type=list[Published])

    async def published_once(
        self, principal: Principal, key: str, request_hash: bytes, topic: str
    ) -> list[Published] | None:
        """The answer to the first publish under an Idempotency-Key; None: no call was answered, or it
        was another request."""
        answer: str | None = await self._database.fetchval(
            "select treadle.first_published($1, $2, $3, $4, $5::jsonb)::text",
            key,
            request_hash,
            topic,
            principal.tenant,
            principal.reach,
        )
        return None if answer is None else msgspec.json.decode(answer, type=list[Published])

    async def read(
        self, principal: Principal, topic: str, start: int, limit: int, max_bytes: int = JSON_PAGE_BYTES
    ) -> RecordPage:
        """Records from an offset on: up to `limit` and about `max_bytes`, but at least one if there is one. Raises
        NotFound, BeyondEnd."""
        rows = await self._reads.fetch(READ, topic, principal.tenant, principal.reach, start, limit, max_bytes)
        records = [from_row(Record, row, ("headers", "value")) for row in rows if row["offset"] is not None]
        first_offset, end_offset = rows[0]["first_offset"], rows[0]["end_offset"]
        if start > end_offset:
            raise BeyondEnd(
                f"The offset {start} is beyond the end of the topic {topic!r}: its next offset is {end_offset}.",
                first_offset,
            )
        begins = records[0].offset if records else max(start, min(first_offset, end_offset))
        return RecordPage(records, records[-1].offset + 1 if records else begins, max(0, begins - start))

    async def topic_key(self, principal: Principal, topic: str) -> int:
        """The key of the topic in the payloads of the channel TOPICS (db.notifier); raises NotFound."""
        key: int = await self._reads.fetchval(
            "select topic_key from treadle.topic_bounds($1, $2, $3::jsonb)", topic, principal.tenant, principal.reach
        )
        return key

    async def offset(self, principal: Principal, topic: str, start: str) -> int:
        """The offset of `earliest`, `latest`, an offset or a time in ISO 8601; raises NotFound, Unprocessable."""
        found: int = await self._reads.fetchval(
            "select treadle.topic_offset($1, $2, $3, $4::jsonb)", topic, start, principal.tenant, principal.reach
        )
        return found

    async def place(self, principal: Principal, record_id: UUID) -> RecordPlace:
        """Raises NotFound."""
        row = await self._reads.fetchrow(
            'select topic, "offset", created_at from treadle.record_place($1, $2, $3::jsonb)',
            record_id,
            principal.tenant,
            principal.reach,
        )
        if row is None:
            raise NotFound(f"There is no record {record_id}.")
        return RecordPlace(record_id, *row)

    async def _publish(self, batch: Sequence[Request], patient: bool) -> list[list[Published] | Exception]:
        first = batch[0]
        with self._notifier.with_commit(single=len(batch) == 1 and first.quantity == 1) as hinted:
            try:
                rows = await self._database.fetch(
                    PUBLISH,
                    first.topic,
                    f"[{b','.join(request.text for request in batch if request.text).decode()}]",
                    first.principal.tenant,
                    hinted,
                    first.principal.reach,
                    PATIENT_LOCK_TIMEOUT if patient else LOCK_TIMEOUT,
                )
            except Busy as error:
                if error.held is not None or len(batch) > 1:
                    raise
                # One line for all of the tenant's.
                raise Busy(str(error), held=f"records of {first.principal.tenant}/") from error
        if not hinted:
            self._notifier.hint(RECORDS, "*")
        published = iter([Published(*row) for row in rows])
        return [[next(published) for _ in range(request.quantity)] for request in batch]


def require_all(principal: Principal) -> None:
    """Raises Forbidden for a principal that sees only a part of its tenant: topics and subscriptions have no owner."""
    if principal.reach is not None:
        raise Forbidden("A key or token with restrictions may not change topics and subscriptions.")


def _publications(records: Sequence[NewRecord], schema_ids: Sequence[int | None] | None) -> list[Publication]:
    return [
        Publication(
            record.record_id or uuid.uuid7(),
            record.value,
            record.key,
            msgspec.UNSET if record.headers is None else record.headers,
            schema_id,
            telemetry.TRACE_PARENT.get(),
        )
        for record, schema_id in zip(records, schema_ids or [None] * len(records), strict=True)
    ]


def _encode(records: Sequence[Publication]) -> str:
    return msgspec.json.encode(records).decode()


def _readers(text: str) -> list[Reader]:
    return msgspec.json.decode(text, type=list[Reader])
