"""Schemas that take hours, or all memory, to check: they end a child process, and only their own tenant waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service import sandbox
from service.access.principal import AUTH_OFF
from service.db.pool import Connection
from service.errors import Busy, SandboxAway
from service.schemas import registry as registry_module
from service.schemas.errors import InvalidSchema
from service.schemas.model import NewSchema, Reference, Source
from service.schemas.registry import Registry
from service.schemas.sandboxed import checks as checks_module
from service.schemas.sandboxed.checks import KeyedSource, SchemaChecks
from service.schemas.sandboxed.questions import FirstMisfit, Pair
from tests.support.api_answers import problem
from tests.support.costly_schemas import CHAIN, DYNAMIC, RECURSIVE, doubling, nested_unevaluated, unions
from tests.support.fixture_types import StartApi
from tests.support.schema_changes import INT, TEXT
from tests.support.waiting import until


def nested(levels: int, value: Any) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def source(schema: object) -> Source:
    return Source("JSON", msgspec.json.encode(schema))


async def first_misfit(checks: SchemaChecks, schema: object, *values: Any, tenant: str = "t") -> FirstMisfit | None:
    found = await checks.fit(tenant, KeyedSource.of(source(schema)), values)
    return found if isinstance(found, FirstMisfit) else None


@asynccontextmanager
async def under_way(checks: SchemaChecks) -> AsyncIterator[None]:
    """While a check of the tenant t does not end."""
    running = asyncio.create_task(first_misfit(checks, doubling(60), 1))
    await until(lambda: "t" in checks._checking._tenants._rooms)
    try:
        yield
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubling(60), 1),
        (RECURSIVE, nested(60, "x")),  # ... and memory, of which it reaches the limit first
        (nested_unevaluated(60), {"a": 1}),
        (DYNAMIC, 1),
        ({"pattern": r"^(?:.*a.{0,500}){5}b$"}, "a" * 1_000_000),
    ],
)
async def test_a_check_that_takes_too_long_is_ended(schema: Any, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_module, "CHECK_SECONDS", 1)
    async with SchemaChecks() as checks:
        found = await first_misfit(checks, schema, value)
        assert found is not None
        limits = ["it takes more than 1 seconds of processor time", "it needs too much memory, or is nested too deeply"]
        assert (found.number, found.reason in limits) == (None, True)
        assert await first_misfit(checks, INT, 1) is None


async def test_a_comparison_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_module, "COMPARE_SECONDS", 1)
    async with SchemaChecks() as checks:
        with pytest.raises(InvalidSchema, match="cannot be compared with the former ones, for it"):
            await checks.compare("t", [Pair(source(unions("a")), source(unions("b")))])


async def test_a_schema_beyond_the_depth_of_the_library_ends_only_the_child(checks: SchemaChecks) -> None:
    with pytest.raises(InvalidSchema, match="nested too deeply"):
        await checks.read("t", Source("JSON", b'{"not":' * 100_000 + b"{}" + b"}" * 100_000))
    found = await first_misfit(checks, CHAIN, [])
    assert found is None or found.number is None
    assert await first_misfit(checks, INT, "x") == FirstMisfit(0, "", 'the value is not of type "integer"')


async def test_other_tenants_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_module, "CHECK_SECONDS", 600)
    async with SchemaChecks() as checks, under_way(checks):
        assert await first_misfit(checks, TEXT, 1, tenant="u") is not None


async def test_the_tenant_itself_waits_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who goes ends its check."""
    monkeypatch.setattr(checks_module, "CHECK_SECONDS", 600)
    async with SchemaChecks() as checks:
        async with under_way(checks):
            monkeypatch.setattr(sandbox, "PATIENCE_SECONDS", 0.01)
            with pytest.raises(Busy):
                await first_misfit(checks, INT, 1)
            monkeypatch.undo()
        assert await first_misfit(checks, INT, 1) is None


async def test_a_child_that_was_killed_is_replaced(checks: SchemaChecks) -> None:
    assert await first_misfit(checks, INT, 1) is None
    [child] = checks._checking._free
    child._process.kill()
    assert await first_misfit(checks, INT, "x") is not None


async def test_a_child_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/database")
    async with SchemaChecks() as checks:
        assert await first_misfit(checks, INT, 1) is None
        [child] = checks._checking._free
        environment = await asyncio.to_thread(Path(f"/proc/{child._process.pid}/environ").read_bytes)
        assert (b"PATH" in environment, b"secret" in environment) == (True, False)


async def test_a_defect_is_no_limit(checks: SchemaChecks, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(sandbox.BeyondLimits, match="its check failed"):
        await checks._checking.ask("t", lambda: b"no question")
    assert "DecodeError" in vars(caplog.records[-1])["said"] or "ValidationError" in vars(caplog.records[-1])["said"]


async def test_the_end_of_the_process_ends_a_check_that_is_under_way() -> None:
    async with SchemaChecks() as checks:
        running = asyncio.create_task(first_misfit(checks, doubling(60), 1))
        [child] = await until(lambda: list(checks._checking._busy))
        await checks.close()
        with pytest.raises(SandboxAway):
            await running
        assert child._process.returncode is not None


async def test_a_schema_imports_so_much_at_most(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MAX_IMPORTED_BYTES", 5)
    await registry.register(AUTH_OFF, "large", NewSchema("JSON", '{"type": "integer"}'))
    importing = NewSchema("JSON", '{"$ref": "large.json"}', (Reference("large.json", "large", 1),))
    with pytest.raises(InvalidSchema, match="imports more than 5 bytes"):
        await registry.register(AUTH_OFF, "small", importing)


async def test_a_schema_is_compared_with_so_many_at_most(
    registry: Registry, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new(number: int) -> NewSchema:
        return NewSchema("JSON", f'{{"type": "integer", "title": "{number}"}}')

    monkeypatch.setattr(registry_module, "MAX_COMPARED", 11)
    await registry.store.set_rule(AUTH_OFF, "compatibility", "FULL_TRANSITIVE", "s")
    for number in range(12):
        await registry.register(AUTH_OFF, "s", new(number))
    with pytest.raises(InvalidSchema, match=r"all 12 versions of 's', which are too many: .* not transitive"):
        await registry.register(AUTH_OFF, "s", new(13))
    # A version that is deleted for good between two reads is left out.
    heads = await registry.store.heads(AUTH_OFF, "s")
    await sql.execute("delete from treadle.schema_versions where subject = 's' and version = 5")
    assert await registry._reasons(AUTH_OFF, "s", source(TEXT), heads)
    monkeypatch.setattr(registry_module, "MAX_COMPARED_BYTES", 100)
    with pytest.raises(InvalidSchema, match="which are too many"):
        await registry.check(AUTH_OFF, "s", new(13))
    await registry.store.set_rule(AUTH_OFF, "compatibility", "FULL", "s")
    assert await registry.check(AUTH_OFF, "s", new(13)) == []


async def test_metadata_and_rule_set_are_bounded(registry: Registry) -> None:
    large = NewSchema("JSON", "{}", extras={"metadata": {"properties": {"x": "x" * 100_000}}})
    with pytest.raises(InvalidSchema, match="metadata and ruleSet must have at most 100000 bytes together"):
        await registry.register(AUTH_OFF, "s", large)


async def test_a_version_is_found_by_its_metadata(start_api: StartApi) -> None:
    api = await start_api()
    path = "/schema-registry/subjects/s"
    kept: tuple[Any, ...] = (None, {"properties": {"a": "1", "b": "2"}}, {"properties": {"a": "1"}}, [])
    for number, metadata in enumerate(kept):
        body = {"schema": f'{{"title": "{number}"}}', "schemaType": "JSON", "metadata": metadata}
        assert (await api.post(f"{path}/versions", json=body)).status_code in (200, 422), number
    for query, version in (("key=a&value=1", 3), ("key=b&value=2&key=a&value=1", 2)):
        assert (await api.get(f"{path}/metadata?{query}")).json()["version"] == version
    assert (await api.get(f"{path}/metadata?key=a&value=2")).json()["error_code"] == 40403
    assert (await api.get("/schema-registry/subjects/missing/metadata?key=a&value=2")).json()["error_code"] == 40401


async def test_a_child_that_cannot_start_is_told() -> None:
    broken = sandbox.Sandbox("service.schemas.missing", cpu_seconds=1, most=1)
    for _ in range(2):
        with pytest.raises(SandboxAway, match="cannot be started"):
            await broken.ask("t", lambda: b"")


async def test_a_value_that_takes_too_long_is_refused_over_http(
    start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks_module, "CHECK_SECONDS", 1)
    api = await start_api()
    body = {"schema": msgspec.json.encode(doubling(60)).decode(), "schemaType": "JSON"}
    assert (await api.post("/schema-registry/subjects/s/versions", json=body)).status_code == 200
    assert (await api.put("/topics/t", json={"schema_subject": "s"})).status_code == 201
    told = "Values of the subject 's' cannot be checked here: it takes more than 1 seconds of processor time."
    problem(await api.post("/topics/t/records", json={"value": 1}), 422, told)


async def test_a_child_that_answers_while_the_process_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = sandbox._Child.answer

    async def answer_at_the_end(child: sandbox._Child, question: bytes) -> bytes:
        answered = await answer(child, question)
        await checks.close()
        return answered

    monkeypatch.setattr(sandbox._Child, "answer", answer_at_the_end)
    async with SchemaChecks() as checks:
        with pytest.raises(SandboxAway):
            await first_misfit(checks, INT, 1)
        assert checks._checking._free == []  # a child that waits there is never ended
