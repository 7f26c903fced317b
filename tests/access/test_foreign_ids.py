"""Every operation with an id answers a stranger for another's id as for an unknown one, with the same statements, and
changes nothing. (`make bench ARGS="--only refusals"` compares the times.)

The operations come from the OpenAPI description, so that a new one is tried, too.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.db.pool import Connection, Database
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi
from treadle import Context, agent

UNKNOWN = {"message_id": "00000000-0000-7000-8000-000000000000", "thread_id": "no-such-thread", "key_id": "0" * 12}
UNKNOWN["webhook_id"] = UNKNOWN["message_id"]
SCOPES = ("submit", "read", "operate")
KEYS_IN_USE = re.compile(
    r"find_keys|find_tenants|note_key_uses|signing_secret"
)  # read again now and then, whatever is asked
STRANGERS = ("tenant", "subject", "agents", "thread", "message")
TABLES = ("messages", "threads", "thread_turns", "events", "leases", "idempotency", "keys", "audit", "webhooks")


@agent("poet")
async def poet(context: Context, text: str) -> None: ...


@agent("echo")
async def echo(context: Context, text: str) -> None: ...


@pytest.fixture
async def api(start_api: StartApi, register_agents: RegisterAgents, sql: Connection) -> Client:
    await register_agents(echo, poet)
    await sql.execute("select treadle.create_tenant('acme'), treadle.create_tenant('globex')")
    return await start_api(**CLOSED)


async def credential(api: Client, stranger: str) -> str:
    """The stranger's key or token. Only the first is of another tenant."""
    if stranger == "tenant":
        return str((await create_key(api, *SCOPES, "admin", tenant="globex"))["key"])
    if stranger == "agents":
        return str((await create_key(api, *SCOPES, tenant="acme", agents=["poet"]))["key"])
    manager = (await create_key(api, *SCOPES, tenant="acme"))["key"]
    fields = {
        "subject": {"subject": "bob"},
        "thread": {"thread_id": "another"},
        "message": {"message_id": "11111111-1111-7111-8111-111111111111"},
    }[stranger]
    return await create_token(api, manager, *SCOPES, **fields)


async def owned(api: Client) -> dict[str, str]:
    """A thread with a message of ann, in the tenant acme; and a key of the tenant."""
    made = await create_key(api, *SCOPES, tenant="acme")
    ann = await create_token(api, made["key"], *SCOPES, subject="ann")
    message = {"message": "secret", "thread_id": "tour", "agent": "echo"}
    answer = await api.post("/messages", json=message, headers=bearer(ann))
    assert answer.status_code == 202, answer.text
    manager = await create_key(api, "admin", tenant="acme")
    hook = await api.post("/webhooks", json={"url": "https://example.com/"}, headers=bearer(manager["key"]))
    return {
        "message_id": answer.json()["message_id"],
        "thread_id": "tour",
        "key_id": made["key_id"],
        "webhook_id": hook.json()["webhook_id"],
    }


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, set[str]]]:
    """Method, path, and the ids in the path."""
    for path, item in description["paths"].items():
        ids = set(re.findall(r"{(\w+)}", path)) & UNKNOWN.keys()
        for method in item:
            if ids:
                yield method.upper(), path, ids


async def rows(sql: Connection) -> dict[str, list[Any]]:
    return {
        table: [
            tuple(row)
            for row in await sql.fetch(f"select (to_jsonb(t) - 'last_used_at')::text from treadle.{table} t order by 1")
        ]
        for table in TABLES
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the API has sent."""
    statements: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval"):
        original = getattr(Database, name)

        async def noted(self: Database, query: str, *args: Any, original: Any = original, **more: Any) -> Any:
            statements.append(query)
            return await original(self, query, *args, **more)

        monkeypatch.setattr(Database, name, noted)
    return statements


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_another_ones_id_answers_like_an_unknown_one(
    stranger: str, api: Client, sql: Connection, asked: list[str]
) -> None:
    theirs = await owned(api)
    key = await credential(api, stranger)
    await api.get("/threads", headers=bearer(key))  # the key is known from here on
    before = await rows(sql)
    found = list(operations((await api.get("/openapi.json", headers=bearer(ROOT_KEY))).json()))
    assert len(found) >= 13
    for method, path, ids in found:
        answers = []
        for values in (theirs, UNKNOWN):
            address = path.format_map({**UNKNOWN, "agent": "poet", "name": "default", "tenant": "acme", **values})
            body = {"input": "x"} if path.endswith("/input") else {}
            asked.clear()
            answer = await api.request(method, address, headers=bearer(key), json=body if method == "POST" else None)
            text = answer.text
            for name in ids:
                text = text.replace(values[name], name)
            statements = [statement for statement in asked if not KEYS_IN_USE.search(statement)]
            answers.append((answer.status_code, text, sorted(set(answer.headers) - {"date"}), statements))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] >= 400 or path.startswith("/instances"), (method, path)
    assert await rows(sql) == before
