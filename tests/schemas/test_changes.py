"""Which changes between two versions of a schema each level of compatibility allows."""

import asyncio
import base64

import msgspec
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from service.schemas import protobuf_files
from service.schemas.compatibility import json_schema as json_schema_changes
from service.schemas.compatibility import protobuf
from service.schemas.json_schema import Document
from service.schemas.model import Source
from tests.support.schema_changes import CHANGES, INT, JSON_CHANGES, NUMBER, TEXT, Change, file, model


def reasons(reader: str, writer: str, kind: str) -> list[str]:
    if kind == "JSON":
        return json_schema_changes.unreadable(*(Document(msgspec.json.decode(text)) for text in (reader, writer)))
    sources = (Source("PROTOBUF", protobuf_files.read(text, {})) for text in (reader, writer))
    return protobuf.unreadable(*(protobuf.Document.parse(source) for source in sources))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_reader_stands_a_change(change: Change) -> None:
    assert (reasons(change.new, change.old, change.kind) == []) == change.backward
    assert (reasons(change.old, change.new, change.kind) == []) == change.forward


def test_a_reason_names_the_place() -> None:
    old = model("inner", inner=model("a", a=INT, b={"type": "array", "items": TEXT}))
    new = model("inner", inner=model("a", "b", a=TEXT, b={"type": "array", "items": INT}, c=TEXT))
    found = reasons(msgspec.json.encode(new).decode(), msgspec.json.encode(old).decode(), "JSON")
    places = [reason.partition(":")[0] for reason in found]
    inner = "#/properties/inner"
    assert places == [f"{inner}/properties/{name}" for name in ("a", "b/items", "c")] + [f"{inner}/required"]


LEVELS = ("NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE")


async def test_each_level_allows_its_changes_to_the_unmodified_client(client: SchemaRegistryClient) -> None:
    """FULL asks in both directions, so its reasons say what each level would."""

    async def check(number: int, change: Change) -> None:
        subject = f"{change.kind}-{number}"
        await asyncio.to_thread(client.register_schema, subject, Schema(change.old, change.kind))
        answer = await asyncio.to_thread(
            client._rest_client.post,
            f"compatibility/subjects/{subject}/versions?verbose=true",
            {"schema": change.new, "schemaType": change.kind},
        )
        assert answer["is_compatible"] == (change.backward and change.forward), change.name
        directions = {message.startswith("reading values") for message in answer["messages"]}
        assert (True in directions, False in directions) == (not change.backward, not change.forward), change.name

    await asyncio.to_thread(client.set_compatibility, None, "FULL")
    await asyncio.gather(*(check(number, change) for number, change in enumerate(CHANGES)))


TRANSITIVE = [TEXT, {**TEXT, "maxLength": 9}, {**TEXT, "maxLength": 20}]  # the third reads the second, not the first


@pytest.mark.parametrize("level", LEVELS)
async def test_a_level_refuses_to_register(client: SchemaRegistryClient, level: str) -> None:
    """A transitive level compares with all versions, the others with the newest."""

    refusals: list[tuple[int, int, str]] = []

    def register(subject: str, schema: object) -> bool:
        try:
            client.register_schema(subject, Schema(msgspec.json.encode(schema).decode(), "JSON"))
        except SchemaRegistryError as error:
            refusals.append((error.http_status_code, error.error_code, error.error_message))
            return False
        return True

    def try_all() -> list[bool]:
        client.set_compatibility("steps", "NONE")
        assert register("steps", TRANSITIVE[0])
        assert register("steps", TRANSITIVE[1])
        client.set_compatibility("steps", level)
        register("widened", INT)
        client.set_compatibility("widened", level)
        return [register("widened", NUMBER), register("steps", TRANSITIVE[2])]

    backward = not level.startswith(("FORWARD", "FULL"))
    assert await asyncio.to_thread(try_all) == [backward, backward and not level.endswith("TRANSITIVE")]
    for status, code, message in refusals:
        assert (status, code) == (409, 40901)
        assert f"breaks the compatibility {level}" in message


def test_the_table_has_enough_changes() -> None:
    assert len(JSON_CHANGES) >= 30
    assert len({change.name for change in CHANGES}) == len(CHANGES)
    assert base64.b64decode(file())
