"""Values of records are checked against the newest version of a subject, and records carry its id."""

import asyncio
import base64
import math
from typing import Any, cast

import msgspec
import pytest
from uuid_utils.compat import uuid7

from service import telemetry
from service.access.principal import AUTH_OFF
from service.agents import registry as agent_registry
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.errors import Conflict, Misfit, Unprocessable
from service.protocols.leases.sends import Placed
from service.protocols.leases.services import RemoteServices
from service.schemas import protobuf_values, records
from service.schemas.model import NewSchema, Reference
from service.schemas.records import RecordSchemas
from service.schemas.registry import Registry
from service.topics.model import NewRecord
from service.topics.store import TopicStore
from service.worker.isolation.parent import Isolation
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.fixture_types import StartWorker
from tests.support.messages import settled, submit
from tests.support.remote_worker import RemoteWorker
from tests.support.schema_changes import INT, TEXT, A, B, file, model
from tests.support.waiting import until
from treadle import Context, agent
from treadle.v1 import common_pb2, plan_pb2


def json_schema(schema: object, *refs: Reference) -> NewSchema:
    return NewSchema("JSON", msgspec.json.encode(schema).decode(), refs)


async def test_a_value_fits_the_newest_version(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FRESH_SECONDS", -1.0)
    schemas = RecordSchemas(registry)
    with pytest.raises(Unprocessable, match="'orders-value' has no version"):
        await schemas.fit(AUTH_OFF, "orders-value", [{}])
    await registry.register(AUTH_OFF, "common", json_schema({"$defs": {"id": INT}}))
    number = {"$ref": "common.json#/$defs/id"}
    old = model("items", items={"type": "array", "items": number})
    await registry.register(AUTH_OFF, "orders-value", json_schema(old, Reference("common.json", "common", 1)))
    assert await schemas.fit(AUTH_OFF, "orders-value", [{"items": [1]}, {"items": []}]) == (
        2,
        [{"items": [1]}, {"items": []}],
    )
    with pytest.raises(
        Misfit, match=r"^records\[1\]: value at /items/1 does not fit version 1 of the schema 'orders-value': "
    ) as no:
        await schemas.fit(AUTH_OFF, "orders-value", [{"items": [1]}, {"items": [1, "2"]}])
    assert no.value.pointer == "/items/1"
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("items", items={"type": "array"})))
    assert await schemas.fit(AUTH_OFF, "orders-value", [{"items": [1, "2"]}]) == (3, [{"items": [1, "2"]}])


async def test_a_value_fits_the_message_of_a_protobuf_schema(registry: Registry) -> None:
    await registry.register(AUTH_OFF, "p", NewSchema("PROTOBUF", file(A, B)))
    schemas = RecordSchemas(registry)
    given = [{"a": "1", "b": "x"}, {"b": ""}, b"\x08\x01"]
    assert await schemas.fit(AUTH_OFF, "p", given) == (1, [{"a": 1, "b": "x"}, {}, {"a": 1}])
    wrong_values: list[Any] = [{"a": "x"}, {"c": 1}, [], "x", None]
    for wrong in wrong_values:
        with pytest.raises(Misfit, match="does not fit"):
            await schemas.fit(AUTH_OFF, "p", [wrong])


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"steps": [{}, {"kind": "STEP_KIND_DANCE"}]}, "/steps/1/kind"),
        ({"steps": [{"stepId": 1}]}, "/steps/0/stepId"),
        ({"steps": {}}, "/steps"),
        ({"trace": {"span": "x"}}, "/trace/span"),
        ({"createdAt": "soon"}, "/createdAt"),
        ({"complexity": "HIGH at 5"}, "/complexity"),
        ({"affectedPaths": ["a", 1]}, "/affectedPaths/1"),
        ({"planId": "p", "steps": [{}, 5]}, "/steps/1"),
        ([], ""),
    ],
)
def test_a_refused_protobuf_value_names_its_place(value: Any, pointer: str) -> None:
    _, misfit = protobuf_values.reader(plan_pb2.Plan, plan_pb2.DESCRIPTOR.pool)(value)
    assert misfit is not None
    assert misfit[0] == pointer, misfit


async def test_a_schema_with_a_pattern_of_more_than_linear_time_checks_no_values(registry: Registry) -> None:
    await registry.register(AUTH_OFF, "s", json_schema({**TEXT, "pattern": "(?=a)"}))
    with pytest.raises(Unprocessable, match="Values of the subject 's' cannot be checked here"):
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
    schema_id, _ = await RecordSchemas(registry).fit(AUTH_OFF, "orders-value", [record.value for record in given])
    await TopicStore(database, Notifier(database)).publish(AUTH_OFF, "orders", given, [schema_id] * len(given))
    rows = await sql.fetch("select schema_id from treadle.records")
    assert [row["schema_id"] for row in rows] == [schema_id, schema_id]


class Order(msgspec.Struct):
    """Version 1 of the schema: fields that it does not have are passed over."""

    number: int


async def test_an_agent_of_version_1_reads_records_of_version_2_under_forward(
    registry: Registry, open_api: Client, start_worker: StartWorker, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published over HTTP, delivered by the router. A version that it could not read cannot be registered."""
    monkeypatch.setattr(records, "FRESH_SECONDS", -1.0)
    seen: list[tuple[int, int]] = []

    @agent("reader", topics=["orders"])
    async def reader(context: Context, order: Order) -> None:
        seen.append((context.metadata["record"]["offset"], order.number))

    await registry.store.set_rule(AUTH_OFF, "compatibility", "FORWARD", "orders-value")
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("number", number=INT)))
    assert (await open_api.put("/topics/orders", json={"schema_subject": "orders-value"})).status_code == 201
    await start_worker(reader)
    await until(lambda: sql.fetchval("select count(*) from treadle.subscriptions"))
    path = "/topics/orders/records"
    assert (await open_api.post(path, json={"value": {"number": 1}})).status_code == 202
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("number", "note", number=INT, note=TEXT)))
    refused = await open_api.post(path, json={"value": {"number": 2}})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "")
    assert (await open_api.post(path, json={"value": {"number": 2, "note": "x"}})).status_code == 202
    with pytest.raises(Conflict):
        await registry.register(AUTH_OFF, "orders-value", json_schema(model("note", note=TEXT)))
    assert sorted(await until(lambda: seen, lambda found: len(found) == 2)) == [(0, 1), (1, 2)]
    assert await sql.fetchval("select array_agg(schema_id order by record_offset) from treadle.messages") == [1, 2]


@agent("publishes")
async def publishes(context: Context, text: str) -> None:
    await context.publish("orders", {"a": msgspec.json.decode(text)})


REFUSED = (
    "A record to publish to 'orders' is refused: value at /a does not fit version 1 of the schema 'orders-value': "
)


async def test_what_agents_publish_fits_the_schema(
    registry: Registry, start_worker: StartWorker, sql: Connection
) -> None:
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("a", a=INT)))
    await sql.execute("select treadle.create_topic('orders', schema_subject => 'orders-value')")
    await start_worker(publishes)
    good, bad = [await submit(sql, text, agent="publishes") for text in ("7", '"x"')]
    assert (await settled(sql, good))["state"] == "completed"
    refused = await settled(sql, bad)
    assert (refused["state"], refused["attempt"], refused["error"].startswith(REFUSED)) == ("failed", 1, True)
    assert await sql.fetchval("select array_agg(schema_id) from treadle.records") == [1]


async def test_what_an_agent_publishes_in_its_own_process_fits_the_schema(
    registry: Registry, settings: Settings, sql: Connection
) -> None:
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("a", a=INT)))
    await sql.execute("select treadle.create_topic('orders', schema_subject => 'orders-value')")
    own = msgspec.structs.replace(settings, agents=("tests.support.isolated_agents",))
    worker = build_worker(own, str(own.database_url), agent_registry.load(own), isolation=Isolation(own))
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.ready)
        ended = await settled(sql, await submit(sql, "x", agent="publisher"))
    finally:
        worker.stop()
        await running
    assert ended["result"].startswith(REFUSED), ended
    assert await sql.fetchval("select array_agg(schema_id) from treadle.records") == [1]


async def test_what_remote_workers_publish_fits_the_schema(
    registry: Registry, open_api: Client, sql: Connection
) -> None:
    """Also where the worker did not ask before."""
    await registry.register(AUTH_OFF, "orders-value", json_schema(model("a", a=INT)))
    await sql.execute("select treadle.create_topic('orders', schema_subject => 'orders-value')")
    remote = RemoteWorker(open_api)
    await remote.register("shout")
    message_id = await open_api.submit("x", agent="shout")
    [claimed] = await remote.claim()
    lease = {name: claimed[name] for name in ("message_id", "lease")}
    bad, good = [{"name": "n", "topic": "orders", "value": {"a": a}} for a in ("x", 7)]
    problem(await remote.call("publish", **lease, record=bad), 422, REFUSED)
    problem(await remote.finish(message_id, records=[bad], result=1), 422, REFUSED)
    assert (await remote.finish(message_id, records=[good], result=1)).json()["state"] == "completed"
    assert await sql.fetchval("select array_agg(schema_id) from treadle.records") == [1]


async def test_protobuf_in_binary_and_in_base64_is_stored_as_json(
    registry: Registry, open_api: Client, sql: Connection
) -> None:
    common, plan = (base64.b64encode(each.DESCRIPTOR.serialized_pb).decode() for each in (common_pb2, plan_pb2))
    await registry.register(AUTH_OFF, "common", NewSchema("PROTOBUF", common))
    refs = (Reference("treadle/v1/common.proto", "common", 1),)
    await registry.register(AUTH_OFF, "changes-value", NewSchema("PROTOBUF", plan, refs))
    assert (await open_api.put("/topics/changes", json={"schema_subject": "changes-value"})).status_code == 201
    assert (await open_api.put("/topics/free", json={})).status_code == 201
    path, headers = "/topics/changes/records", {"content-type": "application/x-protobuf"}
    binary = plan_pb2.ChangeRequest(request_id="x", paths=["a"]).SerializeToString()
    assert (await open_api.post(f"{path}?key=k", content=binary, headers=headers)).status_code == 202
    text = base64.b64encode(binary).decode()
    assert (await open_api.post(path, json={"value": text, "encoding": "base64"})).status_code == 202
    assert (await open_api.post(path, json={"value": {"request_id": "x", "paths": ["a"]}})).status_code == 202
    rows = await sql.fetch("select key, value::text, schema_id from treadle.records order by record_id")
    assert [(row["key"], row["schema_id"]) for row in rows] == [("k", 2), (None, 2), (None, 2)]
    assert all(msgspec.json.decode(row["value"]) == {"requestId": "x", "paths": ["a"]} for row in rows)
    assert (await open_api.post(path, json={"value": "?", "encoding": "base64"})).status_code == 422
    assert (await open_api.post(path, content=b"\xff\xff", headers=headers)).status_code == 422
    assert (await open_api.post("/topics/free/records", content=binary, headers=headers)).status_code == 422


async def test_the_checks_of_a_batch_ask_postgresql_as_often_as_those_of_one(
    registry: Registry, database: Database, sql: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FRESH_SECONDS", math.inf)  # however busy this machine is
    for number in range(6):
        await registry.register(AUTH_OFF, f"s{number}", json_schema(model("a", a=INT)))
        await sql.execute("select treadle.create_topic($1, schema_subject => $2)", f"t{number}", f"s{number}")
    await sql.execute("select treadle.create_topic('free')")

    async def check(*topics: str, value: Any = 1) -> tuple[list[Any], int]:
        """The schemas of records and of a message for each, and how many calls that took."""
        remote = RemoteServices(settings, database, Notifier(database), cast(Any, None), registry.checks)
        rows: list[dict[str, Any]] = [{"topic": topic, "value": {"a": value}} for topic in topics]
        rows += [{"agent": "echo", "message": "x"}] * len(topics)
        calls: list[str] = []
        stop = telemetry.database_call.listen(lambda *, pool, seconds, error: calls.append(pool))
        try:
            checked = await remote.check("default", [Placed(uuid7(), True, row, "n") for row in rows])
        finally:
            stop()
        return [one.row.get("schema_id") for one in checked[: len(topics)]], len(calls)

    [schema], calls_of_one = await check("t0")
    schemas, calls = await check(*(f"t{number}" for number in range(6)), "free", "t0")
    assert (schemas, calls) == ([schema] * 6 + [None, schema], calls_of_one)
    with pytest.raises(Unprocessable, match="A record to publish to 't3' is refused"):
        await check("free", "t3", value="x")
