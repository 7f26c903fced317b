"""The JSON of topics and records."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.limits import (
    DEFAULT_RECORD_BYTES,
    DEFAULT_RETENTION_HOURS,
    MAX_BATCH_RECORDS,
    MAX_RECORD_BYTES,
    MAX_RECORD_KEY_CHARS,
    MAX_RETENTION_HOURS,
    MAX_SUBJECT_NAME_CHARS,
    RECORD_KEY_RULE,
    RETENTION_RULE,
)

Declared = Literal["created", "changed", "unchanged"]
"""What a declaration of a topic or a subscription did."""


class NewTopic(Struct, frozen=True, forbid_unknown_fields=True):
    """A topic as it is declared: a field that is left out gets its default."""

    # The descriptions end the sentence "<field> must be ..." (json_input).
    retention_hours: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_RETENTION_HOURS)] | None, Meta(description=RETENTION_RULE)
    ] = DEFAULT_RETENTION_HOURS
    max_record_bytes: Annotated[
        int,
        Meta(ge=1, le=MAX_RECORD_BYTES, description=f"a whole number from 1 to {MAX_RECORD_BYTES}"),
    ] = DEFAULT_RECORD_BYTES
    schema_subject: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_NAME_CHARS)] | None,
        Meta(description="the name of a subject of the schema registry, or null for none"),
    ] = None


RecordKey = Annotated[
    Annotated[str, Meta(min_length=1, max_length=MAX_RECORD_KEY_CHARS)] | None, Meta(description=RECORD_KEY_RULE)
]
RecordHeaders = Annotated[dict[str, str] | None, Meta(description="an object of texts")]
Encoding = Annotated[Literal["base64"] | None, Meta(description="base64, or null for a value in JSON")]
RecordId = Annotated[UUID | None, Meta(description="a UUIDv7 of a time within a day of now")]


class NewRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record as a producer publishes it. A producer that chooses `record_id` may repeat its call: a record that is
    there already is not written again. With the encoding base64, the value is the base64 of a Protobuf message in
    binary, of the type that the topic's schema_subject has."""

    value: Annotated[Any, Meta(description="any JSON")]
    key: RecordKey = None
    headers: RecordHeaders = None
    record_id: RecordId = None
    encoding: Encoding = None


class NewRecords(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a publish: the fields of one record, or `records` alone."""

    records: Annotated[
        Annotated[list[NewRecord], Meta(min_length=1, max_length=MAX_BATCH_RECORDS)] | UnsetType,
        Meta(description=f"a list of 1 to {MAX_BATCH_RECORDS} records"),
    ] = UNSET
    value: Annotated[Any | UnsetType, Meta(description="any JSON")] = UNSET
    key: RecordKey = None
    headers: RecordHeaders = None
    record_id: RecordId = None
    encoding: Encoding = None


class Publication(Struct, frozen=True, omit_defaults=True):
    """A NewRecord with its id, the schema that its value satisfies, and the trace context of its request, as
    treadle.publish_many reads it."""

    record_id: UUID
    value: Any
    key: str | None = None
    headers: dict[str, str] | UnsetType = UNSET
    schema_id: int | None = None
    traceparent: str | None = None


class Published(Struct, frozen=True):
    """One record of a delivery report: it is stored durably. `known`: an earlier call had stored it."""

    record_id: UUID
    created_at: datetime
    known: bool


class DeliveryReport(Struct, frozen=True):
    """The response to a publish, in the order of the records."""

    records: list[Published]


class Record(Struct, frozen=True):
    offset: int
    record_id: UUID
    key: str | None
    headers: dict[str, str]
    value: Any
    schema_id: int | None
    created_at: datetime


class RecordPage(Struct, frozen=True):
    """Records from an offset on. `gap`: retention has deleted so many records between the offset that was asked for and
    the first one here. A reader that goes on at `next_offset` misses nothing."""

    records: list[Record]
    next_offset: int
    gap: int


class RecordPlace(Struct, frozen=True):
    """Where a record is. `offset` is null for the moment until it has one."""

    record_id: UUID
    topic: str
    offset: int | None
    created_at: datetime


class Reader(Struct, frozen=True):
    """A subscription of a topic. `lag`: how many of its records are not delivered yet."""

    subscription: str
    next_offset: int
    lag: int


class Topic(Struct, frozen=True):
    """`bytes` are those of the records that are kept, before compression."""

    topic: str
    retention_hours: float | None
    max_record_bytes: int
    schema_subject: str | None
    first_offset: int
    next_offset: int
    bytes: int
    records_per_minute: int
    created_at: datetime
    subscriptions: list[Reader]
