"""Access tokens: what they allow, and how they end."""

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest

from service.access.tokens import TOKEN_PREFIX
from service.db.pool import Connection
from tests.support.access import CLOSED, ROOT_KEY, PassTime, bearer, create_key, create_token, status_with
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.sse_reader import Reader, open_stream
from tests.support.waiting import until


async def refusal(api: Client, key: str, **fields: Any) -> tuple[int, str]:
    answer = await api.post("/tokens", json=fields, headers=bearer(key))
    return answer.status_code, answer.json()["detail"]


async def test_a_token_is_valid_on_every_process(closed_api: Client, start_api: StartApi) -> None:
    other = await start_api(**CLOSED)
    token = await create_token(closed_api, ROOT_KEY, "read", thread_id="t")
    assert [await status_with(api, token) for api in (closed_api, other)] == [200, 200]
    submit = await other.post("/messages", json={"message": "x"}, headers=bearer(token))
    assert (submit.status_code, submit.json()["detail"]) == (403, "The key or token lacks the scope submit.")


async def test_a_token_has_no_more_than_its_maker(closed_api: Client) -> None:
    reader = (await create_key(closed_api, "read", expires_in=600))["key"]
    assert await refusal(closed_api, reader, subject="a", scopes=["submit"]) == (
        403,
        "The key or token lacks the scope submit, so it cannot give it to an access token.",
    )
    assert (await refusal(closed_api, ROOT_KEY, subject="a", scopes=["admin"]))[0] == 422
    assert (await refusal(closed_api, ROOT_KEY, scopes=["read"]))[0] == 422
    assert await refusal(closed_api, ROOT_KEY, subject="a", scopes=["read", "write"]) == (
        422,
        "scopes must be a list of submit, read, operate, publish, work and admin.",
    )
    assert (await refusal(closed_api, ROOT_KEY, scopes=["read"], subject="a\nb"))[0] == 422
    assert (await refusal(closed_api, ROOT_KEY, scopes=["read"], subject="a", expires_in=1e9))[0] == 422
    mine = await create_token(closed_api, ROOT_KEY, "read", "submit", subject="a")
    assert await refusal(closed_api, mine, subject="b", scopes=["read"]) == (
        403,
        "The key or token is restricted to another subject.",
    )
    narrower = claims(await create_token(closed_api, mine, "read", thread_id="t"))
    assert (narrower["subject"], narrower["thread_id"], narrower["scopes"]) == ("a", "t", ["read"])
    assert narrower["exp"] <= claims(mine)["exp"]
    short = await closed_api.post(
        "/tokens", json={"subject": "a", "scopes": ["read"], "expires_in": 3600}, headers=bearer(reader)
    )
    listed = (await closed_api.get("/keys", headers=bearer(ROOT_KEY))).json()
    ends = [datetime.fromisoformat(text) for text in (short.json()["expires_at"], listed[0]["expires_at"])]
    assert ends[0] < ends[1] + timedelta(seconds=60)  # the API counts from when it has read the key


async def test_a_token_for_a_thread_keeps_to_its_owner(closed_api: Client) -> None:
    """A thread that was deleted and begun again by another subject is not the thread of the token."""
    every = ("submit", "read", "operate")
    ann, bob = [await create_token(closed_api, ROOT_KEY, *every, subject=name) for name in ("ann", "bob")]
    await submit(closed_api, thread_id="of-none")
    await submit(closed_api, ann, thread_id="of-ann")
    names = ("of-none", "of-ann", "later")
    tokens = {name: await create_token(closed_api, ROOT_KEY, *every, thread_id=name) for name in names}
    await submit(closed_api, tokens["later"], thread_id="later")
    for name, token in tokens.items():
        path = f"/threads/{name}"
        assert await status_with(closed_api, token, path) == 200
        assert (await closed_api.delete(path, headers=bearer(token))).status_code == 204
        await submit(closed_api, bob, thread_id=name)
        assert await status_with(closed_api, token, path) == 404
        answer = await closed_api.post("/messages", json={"message": "x", "thread_id": name}, headers=bearer(token))
        assert answer.status_code == 404
    assert (await refusal(closed_api, tokens["later"], subject="bob", scopes=["read"]))[0] == 403


async def test_a_changed_token_is_refused(closed_api: Client) -> None:
    token = await create_token(closed_api, ROOT_KEY, "read", subject="a")
    head, body, signature = token.removeprefix(TOKEN_PREFIX).split(".")
    changed = encoded({**claims(token), "subject": "b"})
    unsigned = encoded({"alg": "none", "typ": "JWT"})
    for forged in (
        f"{head}.{changed}.{signature}",
        f"{unsigned}.{body}.",
        f"{head}.{body}.",
        f"{head}.{body}",
        jwt.encode(claims(token), "x" * 32, algorithm="HS256"),
    ):
        assert await status_with(closed_api, TOKEN_PREFIX + forged) == 401
    assert await status_with(closed_api, token.removeprefix(TOKEN_PREFIX)) == 401


async def test_a_token_ends_with_its_key(closed_api: Client, start_api: StartApi) -> None:
    other = await start_api(**CLOSED)
    made = await create_key(closed_api, "read")
    token = await create_token(closed_api, made["key"], "read", thread_id="t")
    rotated = await closed_api.post(
        f"/keys/{made['key_id']}/rotate", json={"grace_seconds": 0}, headers=bearer(ROOT_KEY)
    )
    assert rotated.status_code == 200
    assert [await status_with(api, token) for api in (closed_api, other)] == [200, 200]
    await closed_api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))

    async def refused() -> bool:
        return [await status_with(api, token) for api in (closed_api, other)] == [401, 401]

    await until(refused)


async def test_a_token_of_another_first_key_is_refused(closed_api: Client, start_api: StartApi) -> None:
    """A token that was made while AUTH was off is worth nothing, too."""
    other = await start_api(auth="required", treadle_key="another-key-of-at-least-32-characters")
    open_to_all = await start_api(auth="off")
    token = await create_token(closed_api, ROOT_KEY, "read", subject="a")
    loose = (await open_to_all.post("/tokens", json={"subject": "a", "scopes": ["read"]})).json()["token"]
    assert await status_with(closed_api, token) == 200
    assert [await status_with(other, token), await status_with(closed_api, loose)] == [401, 401]


async def test_an_expired_token_ends_its_streams(closed_api: Client, pass_time: PassTime) -> None:
    message_id = await submit(closed_api, thread_id="t")
    token = await create_token(closed_api, ROOT_KEY, "read", thread_id="t", expires_in=600)
    async with (
        open_stream(closed_api, f"/messages/{message_id}/stream?token={token}") as message,
        open_stream(closed_api, f"/threads/t/stream?token={token}") as thread,
    ):
        for reader in (message, thread):
            assert (await reader.event()).type == "queued"
        pass_time(601)
        for reader in (message, thread):
            await assert_ends(reader)
    assert await status_with(closed_api, token) == 401


async def assert_ends(reader: Reader) -> None:
    last = await reader.event()
    assert (last.id, last.type, last.data) == (None, "unauthorized", {"message": "The key or token has expired."})
    with pytest.raises(StopAsyncIteration):
        await reader.next()


async def test_a_token_in_the_address_is_for_streams_only(closed_api: Client, caplog: pytest.LogCaptureFixture) -> None:
    message_id = await submit(closed_api, thread_id="t")
    token = await create_token(closed_api, ROOT_KEY, "read", thread_id="t")
    assert (await closed_api.get(f"/threads?token={token}")).status_code == 401
    assert (await closed_api.get(f"/messages/{message_id}/status?token={token}")).status_code == 401
    refused = await closed_api.get(f"/threads/none/stream?token={token}")
    assert (refused.status_code, token in refused.text) == (404, False)
    assert (await closed_api.get(f"/threads/t/stream?token={token}x")).status_code == 401
    unknown = await closed_api.get(f"/threads/t?token={token}", headers=bearer(token))
    assert (unknown.status_code, token in unknown.text) == (422, False)
    assert token not in caplog.text


async def test_only_operators_see_the_address_of_a_callback(closed_api: Client, sql: Connection) -> None:
    url = "https://example.com/hook?secret"
    message_id = await submit(closed_api, thread_id="t")
    await sql.execute("update treadle.messages set callback_url = $1", url)
    keys = {
        "operator": (await create_key(closed_api, "read", "operate"))["key"],
        "reader": (await create_key(closed_api, "read", "submit"))["key"],
        "operator of an agent": (await create_key(closed_api, "read", "operate", agents=["echo"]))["key"],
        "token": await create_token(closed_api, ROOT_KEY, "read", "operate", thread_id="t"),
    }
    shown = {
        name: (await closed_api.get(f"/messages/{message_id}", headers=bearer(key))).json()["callback_url"]
        for name, key in keys.items()
    }
    assert shown == dict.fromkeys(keys, None) | {"operator": url}


async def test_making_a_token_is_noted(closed_api: Client, sql: Connection) -> None:
    made = await create_key(closed_api, "read", name="ci")
    await create_token(closed_api, made["key"], "read", subject="user-7")
    rows = await sql.fetch("select principal, action, target, details, tenant from treadle.audit order by id")
    assert [(row["principal"], row["action"], row["target"]) for row in rows] == [
        ("key of TREADLE_KEY", "key.create", made["key_id"]),
        (f"key {made['key_id']} (ci)", "token.create", "user-7"),
    ]
    assert rows[1]["details"]["scopes"] == ["read"]


# Helpers


def claims(token: str) -> dict[str, Any]:
    body = token.removeprefix(TOKEN_PREFIX).split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def submit(api: Client, credential: str = ROOT_KEY, **fields: Any) -> str:
    answer = await api.post("/messages", json={"message": "x", **fields}, headers=bearer(credential))
    return str(answer.json()["message_id"])
