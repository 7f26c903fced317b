"""The dialect of the schema registry: the unmodified client serialises, and errors have its codes."""

import asyncio
import base64
import json
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.rpc.error_details_pb2 import ErrorInfo

from service.db.pool import Connection
from service.protocols.schema_registry import routes
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.schema_changes import A, B, file

TEXT, NUMBER = Schema('{"type": "string"}', "JSON"), Schema('{"type": "number"}', "JSON")
NOTE = '{"title": "Note", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}'


def code_of(call: Any, *arguments: Any) -> tuple[int, int]:
    with pytest.raises(SchemaRegistryError) as refused:
        call(*arguments)
    return refused.value.http_status_code, refused.value.error_code


async def test_the_unmodified_client_serialises(client: Any) -> None:
    def round_trips() -> None:
        place = SerializationContext("notes", MessageField.VALUE)
        written = JSONSerializer(NOTE, client)({"text": "hello"}, place)
        assert JSONDeserializer(None, schema_registry_client=client)(written, place) == {"text": "hello"}
        assert client.get_latest_version("notes-value").version == 1
        value = ErrorInfo(reason="full", metadata={"queue": "default"})
        place = SerializationContext("values", MessageField.VALUE)
        written = ProtobufSerializer(ErrorInfo, client)(value, place)
        assert ProtobufDeserializer(ErrorInfo, schema_registry_client=client)(written, place) == value
        client.clear_caches()
        assert client.get_schema(2, fmt="serialized").schema_type == "PROTOBUF"

    await asyncio.to_thread(round_trips)


async def test_a_schema_has_one_id(client: Any) -> None:
    def register() -> None:
        first = client.register_schema_full_response("a", Schema('{"type": "string", "minLength": 1}', "JSON"))
        client.clear_caches()
        again = client.register_schema_full_response("a", Schema('{ "minLength":1,"type":"string"}', "JSON"))
        assert (first.schema_id, first.guid) == (again.schema_id, again.guid) == (1, first.guid)
        assert client.get_versions("a") == [1]
        assert client.register_schema("b/with slash", Schema('{"type":"string","minLength":1}', "JSON")) == 1
        assert client.register_schema("b/with slash", Schema('{"type":"string"}', "JSON")) == 2
        client.clear_caches()
        assert client.get_schema(1).schema_str == '{"type": "string", "minLength": 1}'
        assert client.get_schema_by_guid(first.guid).schema_type == "JSON"
        assert client.lookup_schema("b/with slash", TEXT).version == 2
        assert client.get_subjects() == ["a", "b/with slash"]
        assert client.get_subjects(subject_prefix="b/") == ["b/with slash"]
        assert client.get_subjects_by_schema_id(1) == ["a", "b/with slash"]
        assert [(each.subject, each.version) for each in client.get_schema_versions(1)] == [
            ("a", 1),
            ("b/with slash", 1),
        ]
        assert (client.get_schema_types(), client.get_contexts()) == (["JSON", "PROTOBUF"], ["."])

    await asyncio.to_thread(register)


async def test_schemas_refer_to_others(client: Any) -> None:
    def register() -> None:
        client.register_schema("common", Schema('{"$defs": {"name": {"type": "string"}}}', "JSON"))
        reference = SchemaReference("common.json", "common", 1)
        user = Schema('{"properties": {"name": {"$ref": "common.json#/$defs/name"}}}', "JSON", [reference])
        client.register_schema("user", user)
        assert client.get_latest_version("user").schema.references == [reference]
        assert client.get_referenced_by("common", 1) == [2]
        assert code_of(client.delete_subject, "common") == (422, 42206)
        missing = Schema(user.schema_str, "JSON", [SchemaReference("common.json", "common", 7)])
        assert code_of(client.register_schema, "user", missing) == (422, 42201)
        assert code_of(client.register_schema, "user", Schema(user.schema_str, "JSON")) == (422, 42201)
        changed = Schema('{"properties": {"name": {"type": "integer"}}}', "JSON")
        assert not client.test_compatibility("user", changed)
        assert client.test_compatibility("user", Schema("{}", "JSON"))

    await asyncio.to_thread(register)


async def test_versions_are_deleted_in_two_steps(client: Any) -> None:
    def delete() -> None:
        client.set_compatibility("s", "none")
        for schema in (TEXT, NUMBER):
            client.register_schema("s", schema)
        assert code_of(client.delete_version, "s", 1, True) == (404, 40407)
        assert client.delete_version("s", 1) == 1
        assert code_of(client.delete_version, "s", 1) == (404, 40406)
        assert code_of(client.get_version, "s", 1) == (404, 40402)
        assert client.get_version("s", 1, deleted=True).schema_id == 1
        assert (client.get_versions("s"), client.get_versions("s", deleted=True)) == ([2], [1, 2])
        assert client.get_versions("s", deleted_only=True) == [1]
        assert code_of(client.delete_subject, "s", True) == (404, 40405)
        assert client.delete_subject("s") == [2]
        assert code_of(client.delete_subject, "s") == (404, 40404)
        assert (client.get_subjects(), client.get_subjects(deleted=True)) == ([], ["s"])
        assert client.get_schema(2).schema_str == NUMBER.schema_str
        client.clear_caches()
        assert client.register_schema("s", NUMBER) == 2
        assert client.get_versions("s") == [3]
        assert client.delete_subject("s") == [3]
        assert client.delete_subject("s", permanent=True) == [1, 2, 3]
        client.clear_caches()
        assert code_of(client.get_schema, 2) == (404, 40403)
        assert client.register_schema("s", NUMBER) == 3  # an id is never given twice

    await asyncio.to_thread(delete)


async def test_errors_have_the_codes_of_the_dialect(client: Any) -> None:
    def ask() -> None:
        assert code_of(client.get_latest_version, "missing") == (404, 40401)
        assert code_of(client.delete_subject, "missing") == (404, 40401)
        assert code_of(client.get_schema, 99) == (404, 40403)
        assert code_of(client.lookup_schema, "missing", TEXT) == (404, 40401)
        client.register_schema("s", TEXT)
        assert code_of(client.lookup_schema, "s", NUMBER) == (404, 40403)
        assert code_of(client.get_version, "s", 2) == (404, 40402)
        assert code_of(client.get_version, "s", "first") == (422, 42202)
        assert code_of(client.test_compatibility, "s", NUMBER, 5) == (404, 40402)
        for kind, text in (
            ("JSON", "{"),
            ("JSON", '{"type": "texts"}'),
            ("JSON", '{"$ref": "#/$defs/x"}'),
            ("AVRO", '"string"'),
            ("PROTOBUF", "bWVzc2FnZQ=="),
            ("PROTOBUF", base64.b64encode(b"").decode()),
            ("PROTOBUF", file(("n", 1, 11))),
        ):
            assert code_of(client.register_schema, "t", Schema(text, kind)) == (422, 42201), text
        assert code_of(client.get_config, "s") == (404, 40408)
        assert code_of(client.set_compatibility, "s", "most") == (422, 42203)
        assert code_of(client.get_mode, "s") == (404, 40409)
        assert code_of(client.update_mode, "s", "IMPORT") == (422, 42204)
        assert code_of(client.get_latest_version, "x" * 256) == (422, 42208)
        assert client.get_associations_by_resource_name("orders", "-", "topic", ["value"]) == []

    await asyncio.to_thread(ask)


async def test_rules_are_set_for_a_subject_and_for_all(client: Any) -> None:
    def rules() -> None:
        assert client.get_compatibility() == "BACKWARD"
        assert client.set_compatibility(None, "FULL") == {"compatibility": "FULL"}
        assert client.set_compatibility("s", "FORWARD") == {"compatibility": "FORWARD"}
        assert (client.get_compatibility(), client.get_compatibility("s")) == ("FULL", "FORWARD")
        assert client.delete_config("s").compatibility_level == "FORWARD"
        assert code_of(client.delete_config, "s") == (404, 40408)
        assert client.delete_config().compatibility_level == "FULL"
        assert client.get_compatibility() == "BACKWARD"
        client.register_schema("s", TEXT)
        assert client.update_mode("s", "READONLY") == "READONLY"
        assert client.get_mode("s") == "READONLY"
        client.clear_caches()
        assert client.register_schema("s", TEXT) == 1  # nothing changes
        assert code_of(client.register_schema, "s", Schema("{}", "JSON")) == (422, 42205)
        assert client.delete_mode("s") == "READONLY"
        assert client.register_schema("s", Schema("{}", "JSON")) == 2
        assert client.update_global_mode("READONLY") == "READONLY"
        assert client.get_global_mode() == "READONLY"

    await asyncio.to_thread(rules)


async def test_clients_that_register_at_once_take_turns(open_api: Client) -> None:
    """Each version is checked against the newest one of all clients."""
    path = "/schema-registry/subjects/s/versions"
    schemas = [{"schema": json.dumps({"maxLength": length}), "schemaType": "JSON"} for length in (3, 4, 5, 6)]
    answers = await asyncio.gather(*(open_api.post(path, json=schema) for schema in schemas))
    assert {answer.status_code for answer in answers} <= {200, 409}
    versions = sorted(answer.json()["version"] for answer in answers if answer.status_code == 200)
    assert versions == list(range(1, len(versions) + 1))
    texts = [(await open_api.get(f"{path}/{version}/schema")).json() for version in versions]
    assert sorted(texts, key=lambda text: text["maxLength"]) == texts


# Access

NEEDS = {
    "POST subjects/s/versions": "publish",
    "DELETE subjects/s": "operate",
    "DELETE subjects/s/versions/1": "operate",
}
SCHEMA = {"schema": "{}", "schemaType": "JSON"}


def needed(method: str, path: str) -> str:
    if path.partition("/")[0] in {"config", "mode"} and method != "GET":
        return "operate"
    return NEEDS.get(f"{method} {path}", "read")


async def test_every_route_needs_its_scope(start_api: StartApi) -> None:
    api = await start_api(**CLOSED)
    values = {"subject": "s", "version": "1", "schema_id": "1", "guid": "x", "namespace": "-", "name": "t"}
    calls = [
        (method, path.removeprefix("/schema-registry").removeprefix("/").replace(":str", "").format_map(values))
        for route in routes.router.routes
        for path, method in [(route.path, method) for method in route.methods]
        if method != "OPTIONS"
    ]
    assert len(calls) > 30
    keys = {scope: (await create_key(api, scope))["key"] for scope in ("read", "publish", "operate")}
    bodies: dict[str, Any] = {"config": {"compatibility": "FULL"}, "mode": {"mode": "READWRITE"}}
    for method, path in calls:
        body = {"json": bodies.get(path.partition("/")[0], SCHEMA)} if method in {"POST", "PUT"} else {}
        for scope, key in keys.items():
            answer = await api.request(method, f"/schema-registry/{path}", headers=bearer(key), **body)
            allowed = scope == needed(method, path)
            assert (answer.status_code != 403) == allowed, (method, path, scope)
            assert allowed or answer.json()["error_code"] == 403
    refused = await api.get("/schema-registry/subjects")
    assert (refused.status_code, refused.json()["error_code"]) == (401, 401)
    assert refused.headers["www-authenticate"].startswith("Basic")


async def test_a_tenant_has_schemas_of_its_own(start_api: StartApi, sql: Connection) -> None:
    """A key is sent as the password of Basic, or as a bearer's token."""
    await sql.execute("select treadle.create_tenant('acme')")
    api = await start_api(**CLOSED)
    made = await create_key(api, "read", "publish", tenant="acme")
    url = f"{api.base_url}/schema-registry"

    def compare() -> None:
        basic = {"basic.auth.user.info": f"{made['key_id']}:{made['key']}"}
        token = {"bearer.auth.credentials.source": "STATIC_TOKEN", "bearer.auth.token": ROOT_KEY}
        token |= {"bearer.auth.logical.cluster": "x", "bearer.auth.identity.pool.id": "y"}
        common = {"url": url, "max.retries": 0}
        with SchemaRegistryClient(common | basic) as acme, SchemaRegistryClient(common | token) as others:
            assert acme.register_schema("s", TEXT) == 1
            assert (acme.get_subjects(), others.get_subjects()) == (["s"], [])
            assert code_of(others.get_schema, 1) == (404, 40403)
            assert others.register_schema("t", NUMBER) == 1

    await asyncio.to_thread(compare)
    restricted = await create_token(api, made["key"], "read", subject="ann")
    assert (await api.get("/schema-registry/subjects", headers=bearer(restricted))).status_code == 403


async def test_acts_on_schemas_are_noted(client: SchemaRegistryClient, sql: Connection) -> None:
    def act() -> None:
        client.register_schema("s", Schema(file(A, B), "PROTOBUF"))
        client.set_compatibility("s", "FULL")
        client.delete_subject("s")

    await asyncio.to_thread(act)
    rows = await sql.fetch("select action, target, details::text from treadle.audit order by id")
    assert [tuple(row) for row in rows] == [
        ("schema.rule", "s", '{"compatibility": "FULL"}'),
        ("schema.delete", "s", '{"versions": [1], "permanent": false}'),
    ]


async def test_lists_read_no_schemas(client: Any, sql: Connection) -> None:
    """They can be large: here each that is read is an error."""
    await asyncio.to_thread(client.register_schema, "a", TEXT)
    await asyncio.to_thread(client.register_schema, "b", TEXT)
    view = await sql.fetchval("select pg_get_viewdef('treadle.schema_overview'::regclass)")
    changed = view.replace("s.schema,", "treadle.read_it() as schema,")
    await sql.execute(
        "create function treadle.read_it() returns text stable language plpgsql as 'begin raise exception ''it''; end';"
        f"create or replace view treadle.schema_overview as {changed};"
        "grant execute on function treadle.read_it to treadle_app"
    )

    def ask() -> None:
        assert client.get_subjects() == ["a", "b"]
        assert client.get_versions("a") == [1]
        assert client.get_subjects_by_schema_id(1) == ["a", "b"]
        assert [(each.subject, each.version) for each in client.get_schema_versions(1)] == [("a", 1), ("b", 1)]
        with pytest.raises(SchemaRegistryError):
            client.get_schema(1)

    client.clear_caches()
    await asyncio.to_thread(ask)
