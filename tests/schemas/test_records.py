"""Values of records are checked against the newest version of a subject, and records carry its id."""

from typing import Any

import msgspec
import pytest

from service.access.principal import AUTH_OFF
from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.errors import Misfit, Unprocessable
from service.schemas import records
from service.schemas.model import NewSchema, Reference
from service.schemas.records import RecordSchemas
from service.schemas.registry import Registry
from service.schemas.store import SchemaStore
from service.topics.model import NewRecord
from service.topics.store import TopicStore
from tests.support.api_client import Client
from tests.support.schema_changes import INT, TEXT, A, B, file, model


def json_schema(schema: object, *refs: Reference) -> NewSchema:
    return NewSchema("JSON", msgspec.json.encode(schema).decode(), refs)


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(SchemaStore(database))


async def test_a_value_fits_the_newest_version(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FRESH_SECONDS", -1.0)
    schemas = RecordSchemas(registry)
    with pytest.raises(Unprocessable, match="'orders-value' has no version"):
        await schemas.fit(AUTH_OFF, "orders-value", [{}])
    await registry.register(AUTH_OFF, "common", json_schema({"$defs": {"id": INT}}))
    number = {"$ref": "common.json#/$defs/id"}
    old = model("items", items={"type": "array", "items": number})
    await registry.register(AUTH_OFF, "orders-value", json_schema(old, Reference("common.json", "common", 1)))
    assert await schemas.fit(AUTH_OFF, "orders-value", [{"items": [1]}, {"items": []}]) == 2
    with pytest.raises(
        Misfit, match=r"^records\[1\]: value does not fit version 1 of the schema 'orders-value': "
    ) as no:
        await schemas.fit(AUTH_OFF, "orders-value", [{"items": [1]}, {"items": [1, "2"]}])
    assert no.value.pointer == "/items/1"
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("items", items={"type": "array"})))
    assert await schemas.fit(AUTH_OFF, "orders-value", [{"items": [1, "2"]}]) == 3


async def test_a_value_fits_the_message_of_a_protobuf_schema(registry: Registry) -> None:
    await registry.register(AUTH_OFF, "p", NewSchema("PROTOBUF", file(A, B)))
    schemas = RecordSchemas(registry)
    assert await schemas.fit(AUTH_OFF, "p", [{"a": 1, "b": "x"}, {}]) == 1
    wrong_values: list[Any] = [{"a": "x"}, {"c": 1}, [], "x", None]
    for wrong in wrong_values:
        with pytest.raises(Misfit, match="value does not fit"):
            await schemas.fit(AUTH_OFF, "p", [wrong])


async def test_a_schema_with_a_pattern_of_more_than_linear_time_checks_no_values(registry: Registry) -> None:
    await registry.register(AUTH_OFF, "s", json_schema({**TEXT, "pattern": "(?=a)"}))
    with pytest.raises(Unprocessable, match="Values of the schema 's' cannot be checked here"):
        await RecordSchemas(registry).fit(AUTH_OFF, "s", ["a"])


async def test_a_topic_takes_only_values_that_fit_over_http(
    registry: Registry, open_api: Client, sql: Connection
) -> None:
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("a", a=INT)))
    assert (await open_api.put("/topics/orders", json={"schema_subject": "orders-value"})).status_code == 201
    assert (await open_api.put("/topics/free", json={})).status_code == 201
    path = "/topics/orders/records"
    assert (await open_api.post(path, json={"value": {"a": 1}})).status_code == 202
    refused = await open_api.post(path, json={"records": [{"value": {"a": 1}}, {"value": {"a": "x"}}]})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/a")
    assert (await open_api.post("/topics/free/records", json={"value": "x"})).status_code == 202
    assert (await open_api.post("/topics/missing/records", json={"value": "x"})).status_code == 404
    rows = await sql.fetch("select schema_id from treadle.records order by record_id")
    assert [row["schema_id"] for row in rows] == [1, None]


async def test_a_record_carries_the_id_of_its_schema(registry: Registry, database: Database, sql: Connection) -> None:
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("a", a=INT)))
    await sql.execute("select treadle.create_topic('orders', schema_subject => 'orders-value')")
    given = [NewRecord({"a": 1}), NewRecord({"a": 2})]
    schema_id = await RecordSchemas(registry).fit(AUTH_OFF, "orders-value", [record.value for record in given])
    await TopicStore(database, Notifier(database)).publish(AUTH_OFF, "orders", given, [schema_id] * len(given))
    rows = await sql.fetch("select schema_id from treadle.records")
    assert [row["schema_id"] for row in rows] == [schema_id, schema_id]
