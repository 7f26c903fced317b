"""/topics, /records: declare topics, publish records, and read them without a subscription."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, PathParameter, QueryParameter

from service.access.principal import Principal
from service.cursors import format_name, parse_name
from service.errors import Conflict, Invalid, LimitReached, NotFound, Refused, Unprocessable
from service.limits import (
    MAX_BATCH_RECORDS,
    MAX_OFFSET,
    MAX_POLL_SECONDS,
    PAGE_ITEMS,
    RECORD_KEY_RULE,
    START_RULE,
)
from service.params import (
    NEXT_PAGE,
    IdempotencyKey,
    PageLimit,
    hash_request,
    next_page,
    parse_event_id,
    parse_key,
    parse_record_id,
)
from service.refusals import refusals
from service.schemas.records import RecordSchemas
from service.sse_frames import MEDIA_TYPE, reconnect_later
from service.streams import sse
from service.topics import bodies
from service.topics.model import DeliveryReport, NewRecord, NewRecords, NewTopic, RecordPage, RecordPlace, Topic
from service.topics.sse import TopicStreams
from service.topics.store import TopicStore

RecordId = Annotated[str, PathParameter(description="The id of a record (a UUID).")]
Start = Annotated[str, QueryParameter(name="from", description=f"Where a reader without an id begins: {START_RULE}.")]


@put(
    "/topics/{topic:str}",
    operation_id="declareTopic",
    scope="operate",
    status_code=200,
    summary="Create a topic, or change it",
    responses={201: ResponseSpec(Topic, description="The topic is created.")} | refusals(Conflict),
)
async def declare_topic(
    topic: FromPath[str],
    data: JSONBody[NewTopic],
    principal: NamedDependency[Principal],
    topics: NamedDependency[TopicStore],
) -> Response[Topic]:
    """A repeat changes nothing. A field that is left out gets its default."""
    declared = await topics.declare(principal, topic, data)
    return Response(await topics.get(principal, topic), status_code=201 if declared == "created" else 200)


@get(
    "/topics",
    operation_id="listTopics",
    scope="read",
    summary="List the topics with their offsets and subscriptions, by name",
    response_headers=[NEXT_PAGE],
)
async def list_topics(
    principal: NamedDependency[Principal],
    topics: NamedDependency[TopicStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Topic]]:
    page, following = await topics.page(principal, None if cursor is None else parse_name(cursor), limit)
    return Response(page, headers=next_page("/topics", limit=limit, cursor=following and format_name(following)))


@get(
    "/topics/{topic:str}",
    operation_id="getTopic",
    scope="read",
    summary="Get a topic with its offsets and subscriptions",
    responses=refusals(NotFound),
)
async def get_topic(
    topic: FromPath[str], principal: NamedDependency[Principal], topics: NamedDependency[TopicStore]
) -> Topic:
    return await topics.get(principal, topic)


@delete(
    "/topics/{topic:str}",
    operation_id="deleteTopic",
    scope="operate",
    summary="Delete a topic with its records",
    responses=refusals(NotFound),
)
async def delete_topic(
    topic: FromPath[str], principal: NamedDependency[Principal], topics: NamedDependency[TopicStore]
) -> None:
    """It is unknown at once. Messages that subscriptions have made of its records go on."""
    await topics.delete(principal, topic)


@post(
    "/topics/{topic:str}/records",
    operation_id="publishRecords",
    scope="publish",
    status_code=202,
    summary=f"Publish a record, or up to {MAX_BATCH_RECORDS:,}: all of them or none",
    description="The answer follows the commit. The offset of each record follows within moments: GET /records/{id}.",
    responses=refusals(NotFound, Conflict, LimitReached),
    decompress=bodies.decompress,
    read_other=bodies.read_other,
)
async def publish_records(
    request: Request[Any, Any, Any],
    topic: FromPath[str],
    data: JSONBody[NewRecords],
    principal: NamedDependency[Principal],
    topics: NamedDependency[TopicStore],
    record_schemas: NamedDependency[RecordSchemas],
    idempotency_key: IdempotencyKey = None,
    record_key: Annotated[
        str | None, QueryParameter(name="key", description=f"The key of a record in binary: {RECORD_KEY_RULE}.")
    ] = None,
) -> DeliveryReport:
    """Each value must fit the newest version of the topic's schema_subject, if it has one. The body may be gzip or
    zstd (`Content-Encoding`), and the binary of one Protobuf message of that subject (`application/x-protobuf`)."""
    records = bodies.plain(_records(data))
    if record_key is not None:
        records = [msgspec.structs.replace(record, key=record_key) for record in records]
    key, request_hash = None, b""
    if idempotency_key is not None:
        key, request_hash = parse_key(idempotency_key), hash_request(request.url.path, records)
    try:
        schema_id, values = await record_schemas.read(principal, topic, [record.value for record in records])
    except Unprocessable:  # since the first call the topic may have got another schema
        first = None if key is None else await topics.published_once(principal, key, request_hash, topic)
        if first is None:
            raise
        return DeliveryReport(first)
    records = [msgspec.structs.replace(r, value=value) for r, value in zip(records, values, strict=True)]
    ids = [schema_id] * len(records)
    if key is None:
        return DeliveryReport(await topics.publish(principal, topic, records, ids))
    return DeliveryReport(await topics.publish_once(principal, key, request_hash, topic, records, ids))


@get(
    "/topics/{topic:str}/records",
    operation_id="listRecords",
    scope="read",
    stays_open="wait",
    summary="Read records from an offset on",
    description="With `wait`, a reader at the end of the topic is answered when the first record arrives.",
    responses=refusals(NotFound),
)
async def list_records(
    topic: FromPath[str],
    principal: NamedDependency[Principal],
    topics: NamedDependency[TopicStore],
    topic_streams: NamedDependency[TopicStreams],
    offset: Annotated[str, QueryParameter(description=f"Where to begin: {START_RULE}.")] = "earliest",
    limit: PageLimit = PAGE_ITEMS,
    wait: Annotated[
        float, QueryParameter(ge=0, le=MAX_POLL_SECONDS, description=f"a number of seconds, 0 to {MAX_POLL_SECONDS}")
    ] = 0,
) -> RecordPage:
    start = await _offset(topics, principal, topic, offset)
    return await topic_streams.poll(principal, topic, start, limit, wait)


@get(
    "/topics/{topic:str}/stream",
    operation_id="streamTopic",
    scope="read",
    is_stream=True,
    summary="Stream the records of a topic",
    description="Server-sent events `record`, whose id is the offset. The stream ends only when the topic is deleted.",
    media_type=MEDIA_TYPE,
    responses=refusals(NotFound),
)
async def stream_topic(
    topic: FromPath[str],
    principal: NamedDependency[Principal],
    topics: NamedDependency[TopicStore],
    topic_streams: NamedDependency[TopicStreams],
    start: Start = "latest",
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", description="The offset of the last record received.")
    ] = None,
) -> Response[Any]:
    seen = parse_event_id(last_event_id, "Last-Event-ID", MAX_OFFSET) if last_event_id else None
    try:
        key = await topics.topic_key(principal, topic)
        first = await _offset(topics, principal, topic, start) if seen is None else seen + 1
    except Refused:
        raise
    except Exception as error:
        parts = reconnect_later(error)
    else:
        parts = topic_streams.stream(principal, topic, key, first)
    return sse(parts)


@get(
    "/records/{record_id:str}",
    operation_id="getRecord",
    scope="read",
    summary="Get the topic and offset of a record",
    responses=refusals(NotFound),
)
async def get_record(
    record_id: RecordId, principal: NamedDependency[Principal], topics: NamedDependency[TopicStore]
) -> RecordPlace:
    return await topics.place(principal, parse_record_id(record_id))


router = Router(
    "/",
    route_handlers=[
        *(declare_topic, list_topics, get_topic, delete_topic, publish_records, list_records, stream_topic, get_record)
    ],
    tags=["Topics"],
)


def _records(data: NewRecords) -> list[NewRecord]:
    """The records of a body. Raises Unprocessable."""
    one = (data.value, data.key, data.headers, data.record_id, data.encoding)
    if data.records is not msgspec.UNSET:
        if one != (msgspec.UNSET, None, None, None, None):
            raise Unprocessable("Send the fields of one record, or records alone.")
        return data.records
    if data.value is msgspec.UNSET:
        raise Unprocessable("value is missing.")
    return [NewRecord(*one)]


async def _offset(topics: TopicStore, principal: Principal, topic: str, start: str) -> int:
    """The offset that `start` means. Raises Invalid, NotFound."""
    try:
        return await topics.offset(principal, topic, start)
    except Unprocessable:
        raise Invalid(f"offset (or from) must be {START_RULE}.") from None
