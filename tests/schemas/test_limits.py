"""How many subjects a tenant has, and versions a subject."""

from typing import Any

import pytest

from service.db.pool import Connection
from tests.support.api_client import Client

SCHEMA = """
    insert into treadle.schemas (tenant, schema_id, kind, schema, refs, digest, created_at)
    values ('default', 1000000, 'JSON', '{}', '[]', gen_random_uuid(), now())"""
# Subjects with two versions each, every second one of them with deleted versions only.
VERSIONS = """
    insert into treadle.schema_versions (tenant, subject, version, schema_id, created_at, deleted_at)
    select 'default', 's' || n, v, 1000000, now(), case when n % 2 = 0 then now() end
    from generate_series(1, $1::integer) n, generate_series(1, $2::integer) v"""
RULES = """
    insert into treadle.schema_rules (tenant, subject, rule, value)
    select 'default', 'r' || n, rule, value
    from generate_series(1, $1::integer) n,
        (values ('mode', 'READWRITE'), ('compatibility', 'NONE')) v (rule, value)"""


async def register(api: Client, subject: str, minimum: int = 1) -> tuple[int, dict[str, Any]]:
    schema = f'{{"type": "integer", "minimum": {minimum}}}'
    path = f"/schema-registry/subjects/{subject}/versions"
    answer = await api.post(path, json={"schema": schema, "schemaType": "JSON"})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("rules", [0, 4_000])
async def test_a_tenant_has_a_bounded_number_of_subjects(open_api: Client, sql: Connection, rules: int) -> None:
    await sql.execute(SCHEMA)
    await sql.execute(VERSIONS, 9_999 - rules, 2)
    await sql.execute(RULES, rules)
    assert (await register(open_api, "last"))[0] == 200
    assert await register(open_api, "more") == (
        409,
        {"error_code": 409, "message": "A tenant has at most 10000 subjects: delete one permanently, and its rules."},
    )
    level = {"compatibility": "FULL"}
    assert (await open_api.put("/schema-registry/config/more", json=level)).status_code == 409
    assert (await register(open_api, "s2"))[0] == 200  # all of its versions are deleted
    assert (await register(open_api, "last", minimum=0))[0] == 200
    for path in ("/config/s1", "/config", "/config/last"):
        assert (await open_api.put(f"/schema-registry{path}", json=level)).status_code == 200, path
    listed = (await open_api.get("/schema-registry/subjects", params={"deleted": "true"})).json()
    assert len(listed) == 10_000 - rules
    await sql.execute("delete from treadle.schema_versions where subject = 's4'")
    assert (await register(open_api, "more"))[0] == 200


async def test_a_subject_has_a_bounded_number_of_versions(open_api: Client, sql: Connection) -> None:
    await sql.execute(SCHEMA)
    await sql.execute(VERSIONS, 1, 999)
    await sql.execute("update treadle.schema_versions set deleted_at = now()")
    assert (await register(open_api, "s1"))[0] == 200
    status, error = await register(open_api, "s1", minimum=0)
    assert (status, error["message"]) == (
        409,
        "A tenant has at most 1000 versions of the subject 's1': delete one permanently.",
    )
    assert (await register(open_api, "s1"))[0] == 200  # it is a version already
    assert (await register(open_api, "s2"))[0] == 200
