"""Tenants, subjects and keys of some agents over HTTP: nothing of one is seen or changed by another."""

from typing import Any

import pytest
from uuid_utils.compat import uuid7

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.access import ROOT_KEY, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.fixture_types import StartWorker
from tests.support.sse_reader import open_stream
from tests.support.waiting import until

ALL = ("submit", "read", "operate")


class Caller:
    """A key or a token, and what was submitted with it."""

    def __init__(self, api: Client, credential: str) -> None:
        self._api = api
        self.credential = credential
        self.headers = bearer(credential)

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        return await self._api.request(method, path, headers=self.headers | more.pop("headers", {}), **more)

    async def submit(self, thread_id: str | None = None, **more: Any) -> Any:
        return await self.ask("POST", "/messages", json={"message": "secret", "thread_id": thread_id}, **more)


@pytest.fixture
async def callers(closed_api: Client) -> dict[str, Caller]:
    answer = await closed_api.post("/tenants", json={"tenant": "acme"}, headers=bearer(ROOT_KEY))
    assert answer.status_code == 201, answer.text
    acme, key = [(await create_key(closed_api, *ALL, tenant=tenant))["key"] for tenant in ("acme", "default")]
    return {
        "ada": Caller(closed_api, await create_token(closed_api, key, "submit", "read", subject="ada")),
        "bob": Caller(closed_api, await create_token(closed_api, key, "submit", "read", subject="bob")),
        "acme": Caller(closed_api, acme),
        "ada of acme": Caller(closed_api, await create_token(closed_api, acme, "submit", "read", subject="ada")),
        "a key of other agents": Caller(closed_api, (await create_key(closed_api, *ALL, agents=["other"]))["key"]),
        "a token of a thread": Caller(closed_api, await create_token(closed_api, key, *ALL, thread_id="other")),
        "a token of a message": Caller(closed_api, await create_token(closed_api, key, *ALL, message_id=str(uuid7()))),
    }


PATHS_OF_A_MESSAGE = [
    ("GET", "/messages/{}/status"),
    ("GET", "/messages/{}/events"),
    ("GET", "/messages/{}/events?after=1"),
    ("GET", "/messages/{}/stream"),
    ("DELETE", "/messages/{}"),
    ("POST", "/messages/{}/redrive"),
]
PATHS_OF_A_THREAD = [
    ("GET", "/threads/{}"),
    ("GET", "/threads/{}/messages"),
    ("GET", "/threads/{}/messages?cursor=1"),
    ("GET", "/threads/{}/usage"),
    ("GET", "/threads/{}/stream"),
    ("DELETE", "/threads/{}"),
]


async def said(caller: Caller, method: str, path: str, name: str) -> tuple[int, str]:
    """Status and body of an answer, without the name that was asked for."""
    answer = await caller.ask(method, path.format(name))
    return answer.status_code, answer.text.replace(name, "NAME")


async def test_strangers_are_answered_as_for_unknown_names(callers: dict[str, Caller], sql: Connection) -> None:
    ada = callers.pop("ada")
    message_id = (await ada.submit("of-ada")).json()["message_id"]
    for stranger, caller in callers.items():
        for paths, name, unknown in (
            (PATHS_OF_A_MESSAGE, message_id, str(uuid7())),
            (PATHS_OF_A_THREAD, "of-ada", "of-none"),
        ):
            for method, path in paths:
                expected = await said(caller, method, path, unknown)
                assert expected[0] in {403, 404}, (stranger, path)  # 403: the token has not the scope
                assert await said(caller, method, path, name) == expected, (stranger, path)
        assert (await caller.ask("GET", "/threads")).json() == []
    assert (await ada.ask("GET", f"/messages/{message_id}/status")).json()["state"] == "queued"
    assert await sql.fetchval("select count(*) from treadle.events") == 1


async def test_equal_names_of_two_tenants_are_two_things(callers: dict[str, Caller], sql: Connection) -> None:
    key = {"Idempotency-Key": "k"}
    ids = [(await callers[name].submit("t", headers=key)).json()["message_id"] for name in ("ada", "ada of acme")]
    assert len(set(ids)) == 2
    for name, message_id in zip(("ada", "ada of acme"), ids, strict=True):
        assert (await callers[name].submit("t", headers=key)).json()["message_id"] == message_id
        page = (await callers[name].ask("GET", "/threads/t/messages")).json()
        assert [message["message_id"] for message in page["messages"]] == [message_id]
    refused = await callers["bob"].submit("t", headers=key)
    assert (refused.status_code, refused.json()["detail"]) == (404, "There is no thread 't'.")
    assert await sql.fetchval("select count(*) from treadle.messages") == 2


async def test_a_stream_of_a_thread_has_the_events_of_its_tenant(
    callers: dict[str, Caller], closed_api: Client, start_worker: StartWorker, sql: Connection
) -> None:
    own = callers["ada of acme"]
    message_id = (await own.submit("t")).json()["message_id"]
    await callers["ada"].submit("t")
    async with open_stream(closed_api, f"/threads/t/stream?token={own.credential}") as stream:
        await start_worker(echo)
        await until(lambda: sql.fetchval("select count(*) = 2 from treadle.messages where state = 'completed'"))
        events = await stream.until("done")
    assert {event.data["message_id"] for event in events} == {message_id}


async def test_a_suspended_tenant_submits_nothing(callers: dict[str, Caller], closed_api: Client) -> None:
    root = bearer(ROOT_KEY)
    assert (await closed_api.post("/tenants/acme/suspend", headers=root)).json()["suspended_at"] is not None
    refused = await callers["acme"].submit()
    assert (refused.status_code, "suspended" in refused.json()["detail"]) == (403, True)
    assert (await callers["acme"].ask("GET", "/threads")).status_code == 200
    assert (await callers["ada"].submit()).status_code == 202
    assert (await closed_api.post("/tenants/acme/resume", headers=root)).json()["suspended_at"] is None
    assert (await callers["acme"].submit()).status_code == 202


async def test_the_janitors_delete_a_tenant(
    callers: dict[str, Caller],
    closed_api: Client,
    start_worker: StartWorker,
    sql: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.maintenance.delete_tenants.DELETE_TENANTS_SECONDS", 0.1)
    for thread_id in ("t", "u", None):
        await callers["acme"].submit(thread_id)
    answer = await closed_api.delete("/tenants/acme", headers=bearer(ROOT_KEY))
    assert (answer.status_code, answer.json()["deleted_at"] is not None) == (202, True)
    assert (await callers["acme"].submit()).status_code in {401, 404}
    await start_worker(echo, all_chores=True)
    await until(lambda: sql.fetchval("select count(*) = 1 from treadle.tenants"))
    assert (await callers["acme"].submit()).status_code == 401
    assert (await closed_api.get("/tenants", headers=callers["ada"].headers)).status_code == 403
