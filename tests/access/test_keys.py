"""API keys: the calls that they open, how they end, and their traces in the database."""

import asyncio
import time
from typing import Any

import pytest

from service.access.cache import REFRESH_SECONDS
from service.access.store import KeyStore
from service.db.pool import Connection
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, status_with
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.sse_reader import open_stream
from tests.support.waiting import until

KEY_FIELDS = {
    *("key_id", "tenant", "name", "scopes", "agents", "created_at", "created_by", "expires_at", "revoked_at"),
    *("former_until", "last_used_at"),
}


async def test_a_request_without_a_valid_key_is_refused(closed_api: Client) -> None:
    made = await create_key(closed_api, "read")
    wrong = made["key"][:-1] + ("0" if made["key"][-1] != "0" else "1")
    unknown = made["key"].replace(made["key_id"], "000000000000")
    for headers in (
        {},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer"},
        *(bearer(text) for text in (wrong, unknown, "x.y.z")),
    ):
        answer = await closed_api.get("/threads", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == 'Bearer realm="treadle"'
        assert answer.json()["title"] == "Unauthorized"
    assert await status_with(closed_api, made["key"]) == 200
    assert (await closed_api.get("/threads", headers={"Authorization": f"bearer  {made['key']}"})).status_code == 200


async def test_a_refused_submit_writes_nothing(closed_api: Client, sql: Connection) -> None:
    reader = await create_key(closed_api, "read")
    for headers, status in (({}, 401), (bearer(reader["key"]), 403)):
        answer = await closed_api.post("/messages", json={"message": "x"}, headers=headers)
        assert answer.status_code == status
    assert "the scope submit" in answer.json()["detail"]
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_health_and_pages_need_no_key(closed_api: Client) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/openapi.json", "/docs", "/redoc", "/", "/chat"):
        assert (await closed_api.get(path)).status_code == 200, path
    assert (await closed_api.get("/no/such/route")).status_code == 404
    assert (await closed_api.options("/threads")).status_code == 204
    assert (await closed_api.head("/threads")).status_code == 401


async def test_only_the_hash_of_a_key_is_kept(closed_api: Client, sql: Connection) -> None:
    made = await create_key(closed_api, "submit", "read", name="ci", agents=["echo"], expires_in=3600)
    row = dict(await sql.fetchrow("select * from treadle.keys"))  # type: ignore[arg-type]
    secret = made["key"].rpartition("_")[2]
    assert secret not in str(row)
    assert len(row["secret_hash"]) == 32
    [listed] = (await closed_api.get("/keys", headers=bearer(ROOT_KEY))).json()
    assert listed.keys() == KEY_FIELDS
    assert (listed["name"], listed["scopes"], listed["agents"]) == ("ci", ["submit", "read"], ["echo"])
    assert listed["created_by"] == "key of TREADLE_KEY"
    assert secret not in str(listed)


async def test_a_key_passes_on_no_more_than_it_has(closed_api: Client) -> None:
    manager = (await create_key(closed_api, "admin", "read"))["key"]
    limited = (await create_key(closed_api, "admin", "read", agents=["echo"]))["key"]
    tenant = (await create_key(closed_api, "admin", "read", tenant="default"))["key"]

    async def create(key: str, **fields: Any) -> tuple[int, str]:
        answer = await closed_api.post("/keys", json=fields, headers=bearer(key))
        return answer.status_code, answer.json().get("detail", "")

    assert (await create(manager, scopes=["read"]))[0] == 201
    assert await create(manager, scopes=["read", "submit"]) == (
        403,
        "The key or token lacks the scope submit, so it cannot give it to a key.",
    )
    wider = await create_key(closed_api, "read", "submit")
    taken = await closed_api.post(f"/keys/{wider['key_id']}/rotate", json={}, headers=bearer(manager))
    assert (taken.status_code, taken.json()["detail"]) == (
        403,
        "The key or token lacks the scope submit, so it cannot give it to a key.",
    )
    assert await status_with(closed_api, wider["key"]) == 200
    equal = await create_key(closed_api, "read")
    assert (
        await closed_api.post(f"/keys/{equal['key_id']}/rotate", json={}, headers=bearer(manager))
    ).status_code == 200
    assert (await create(limited, scopes=["read"]))[0] == 403
    assert (await create(tenant, scopes=["nonsense"]))[0] == 422
    assert (await create(tenant, scopes=[]))[0] == 422
    assert (await create(tenant, scopes=["read"], expires_in=0))[0] == 422
    assert await status_with(closed_api, limited, "/keys") == 403


# Ends


async def test_a_revocation_reaches_every_process(closed_api: Client, start_api: StartApi) -> None:
    other = await start_api(**CLOSED)
    made = await create_key(closed_api, "read", "submit")
    for api in (closed_api, other):
        assert await status_with(api, made["key"]) == 200
    first = await closed_api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
    assert (first.status_code, first.json()["key_id"]) == (200, made["key_id"])

    async def refused() -> bool:
        return [await status_with(api, made["key"]) for api in (closed_api, other)] == [401, 401]

    await until(refused)
    again = await closed_api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
    assert again.json() == first.json()
    assert (await closed_api.delete("/keys/000000000000", headers=bearer(ROOT_KEY))).status_code == 404
    rotated = await closed_api.post(f"/keys/{made['key_id']}/rotate", json={}, headers=bearer(ROOT_KEY))
    detail = f"The key '{made['key_id']}' is revoked: create another one."
    assert (rotated.status_code, rotated.json()["detail"]) == (409, detail)


async def test_a_revocation_is_found_without_its_hint(closed_api: Client, sql: Connection) -> None:
    made = await create_key(closed_api, "read")
    assert await status_with(closed_api, made["key"]) == 200
    await sql.execute("update treadle.keys set revoked_at = clock_timestamp()")  # notifies of nothing

    async def refused() -> bool:
        return await status_with(closed_api, made["key"]) == 401

    await until(refused)


async def test_a_revoked_key_loses_its_open_streams(closed_api: Client) -> None:
    made = await create_key(closed_api, "read", "submit")
    closed_api.headers.update(bearer(made["key"]))
    message_id = await closed_api.submit("x", thread_id="t")
    async with (
        open_stream(closed_api, f"/messages/{message_id}/stream") as message,
        open_stream(closed_api, "/threads/t/stream") as thread,
    ):
        for reader in (message, thread):
            assert (await reader.event()).type == "queued"
        await closed_api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
        for reader in (message, thread):
            last = await reader.event()
            assert (last.type, last.data) == ("unauthorized", {"message": "The key is revoked."})
            with pytest.raises(StopAsyncIteration):
                await reader.next()


async def test_a_key_expires(closed_api: Client, sql: Connection) -> None:
    made = await create_key(closed_api, "read", expires_in=3600)
    assert await status_with(closed_api, made["key"]) == 200
    await sql.execute("update treadle.keys set expires_at = clock_timestamp() - interval '1 second'")

    async def refused() -> bool:
        return await status_with(closed_api, made["key"]) == 401

    await until(refused)


async def test_a_rotation_refuses_no_call(closed_api: Client, start_api: StartApi) -> None:
    """Clients call two processes all the time, and change to the new key one after the other."""
    apis = [closed_api, await start_api(**CLOSED)]
    made = await create_key(closed_api, "read")
    rotations, current = 3, [made["key"]]
    done = asyncio.Event()
    statuses = []
    used = [made["key"]] * 4  # by each client, in its present call

    async def client(number: int) -> None:
        while not done.is_set():
            used[number] = current[-1]
            statuses.append(await status_with(apis[number % 2], used[number]))

    async def rotate() -> None:
        for _ in range(rotations):
            answer = await closed_api.post(
                f"/keys/{made['key_id']}/rotate", json={"grace_seconds": 60}, headers=bearer(ROOT_KEY)
            )
            current.append(answer.json()["key"])
            seen = len(statuses)
            # The next rotation ends the key before this one: no call may be under way with it.
            await until(lambda seen=seen: len(statuses) >= seen + 20 and set(used) == {current[-1]})  # type: ignore[misc]
        done.set()

    await asyncio.gather(rotate(), *(client(number) for number in range(len(used))))
    assert set(statuses) == {200}
    assert len(set(current)) == rotations + 1
    assert [await status_with(api, current[-2]) for api in apis] == [200, 200]  # within the grace period

    async def ended() -> bool:
        return [await status_with(api, current[-3]) for api in apis] == [401, 401]

    await until(ended)


async def test_a_rotation_without_grace_ends_the_secret_before(closed_api: Client) -> None:
    made = await create_key(closed_api, "read", name="ci")
    assert await status_with(closed_api, made["key"]) == 200
    answer = await closed_api.post(
        f"/keys/{made['key_id']}/rotate", json={"grace_seconds": 0}, headers=bearer(ROOT_KEY)
    )
    renewed = answer.json()
    assert (renewed["key_id"], renewed["name"], renewed["scopes"]) == (made["key_id"], "ci", ["read"])

    async def changed() -> bool:
        return [await status_with(closed_api, made["key"]), await status_with(closed_api, renewed["key"])] == [401, 200]

    await until(changed)


# Cost


async def test_a_known_key_asks_the_database_nothing(
    closed_api: Client, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is one statement, and stays one statement."""
    asked: list[str] = []
    made = await create_key(closed_api, "read")
    assert await status_with(closed_api, made["key"]) == 200

    find = KeyStore.find

    async def counted(self: KeyStore, key_ids: Any) -> Any:
        asked.append("find")
        return await find(self, key_ids)

    monkeypatch.setattr(KeyStore, "find", counted)
    began = time.monotonic()
    for _ in range(20):
        assert await status_with(closed_api, made["key"]) == 200
    assert len(asked) <= 2 + (time.monotonic() - began) / REFRESH_SECONDS  # those of the timer


async def test_uses_are_noted_together(closed_api: Client, sql: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.access.cache.USES_SECONDS", 0.0)
    made = [await create_key(closed_api, "read") for _ in range(3)]
    for key in made:
        assert await status_with(closed_api, key["key"]) == 200

    async def noted() -> bool:
        return bool(await sql.fetchval("select bool_and(last_used_at is not null) from treadle.keys"))

    await until(noted)
    before = await sql.fetchval("select max(last_used_at) from treadle.keys")
    await sql.execute("select treadle.note_key_uses(array(select key_id from treadle.keys))")
    assert await sql.fetchval("select max(last_used_at) from treadle.keys") == before  # within the same minute


async def test_unknown_keys_fill_no_memory(closed_api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.access.cache.MAX_KEYS", 2)
    made = [await create_key(closed_api, "read") for _ in range(4)]
    for _ in range(2):
        for key in made:
            assert await status_with(closed_api, key["key"]) == 200
