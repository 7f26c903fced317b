"""Every socket admits its clients in the same way: each dialect only words a refusal."""

import contextlib
import json
from uuid import UUID

import pytest
from websockets.exceptions import InvalidStatus

from service.db.pool import Connection
from service.sockets.admission import FIRST_FRAME_BYTES
from tests.support.access import CLOSED, ROOT_KEY, PassTime, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.doors import DOORS, Door, visit
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until

REFUSED, TOO_BIG, TRY_AGAIN_LATER = 1008, 1009, 1013
SILENT = "within 5 seconds as the first frame"
EXPIRED = "The key or token has expired."


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


@pytest.fixture
async def api(start_api: StartApi, register_agents: RegisterAgents) -> Client:
    """It looks at the access of silent sockets twice a second."""
    await register_agents()
    return await start_api(**CLOSED, keepalive_interval=0.5)


async def refused_handshake(door: Door, api: Client, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """Its status, headers and body."""
    with pytest.raises(InvalidStatus) as caught:
        async with visit(door, api, headers):
            pass
    answer = caught.value.response
    return answer.status_code, {name.lower(): value for name, value in answer.headers.raw_items()}, str(answer.body)


async def refused_page(door: Door, api: Client, credential: str) -> tuple[str, int | None]:
    """What a page is told that sends this token in the address, or in its first frame."""
    async with visit(door, api, token=credential) as by_query:
        told = await by_query.end()
    async with visit(door, api) as by_frame:
        await by_frame.authenticate(credential)
        assert await by_frame.end() == told
    return told


async def test_each_way_to_send_a_key_opens_it(door: Door, api: Client) -> None:
    key = (await create_key(api, "read", "submit"))["key"]
    async with visit(door, api, bearer(key)) as by_header:
        assert await by_header.is_admitted()
    async with visit(door, api, {"Authorization": f"bEaReR   {key} "}, token="nonsense") as by_odd_header:
        assert await by_odd_header.is_admitted()
    async with visit(door, api, token=key) as by_query:
        assert await by_query.is_admitted()
    async with visit(door, api) as by_frame:
        await by_frame.authenticate(key)
        assert await by_frame.is_admitted()


async def test_a_bad_key_is_refused(door: Door, api: Client, pass_time: PassTime) -> None:
    """A program sees the status of the handshake; a page, which cannot, is told in a frame."""
    publisher = (await create_key(api, "publish"))["key"]
    token = await create_token(api, ROOT_KEY, "read", "submit", thread_id="t", expires_in=600)
    pass_time(601)
    for credential, status, reason in (
        ("nonsense", 401, "The key is not valid."),
        ("trt_x.y.z", 401, "The access token is not valid."),
        (token, 401, EXPIRED),
        (publisher, 403, "lacks the scope"),
    ):
        found, headers, body = await refused_handshake(door, api, bearer(credential))
        assert (found, reason in body) == (status, True), (found, body)
        assert headers.get("www-authenticate", "").startswith("Bearer") == (status == 401)
        text, code = await refused_page(door, api, credential)
        assert (reason in text, code) == (True, REFUSED), text
    found, _, _ = await refused_handshake(door, api, {"Authorization": "Basic dTpw"})
    assert found == 401
    async with visit(door, api) as visitor:  # no header of a handshake is that long
        await visitor.authenticate("x" * 10_001)
        assert await visitor.end() == ("The key or token is too long.", REFUSED)


async def test_nothing_is_read_before_the_key(
    door: Door, api: Client, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = '{"type": "user_input", "text": "x"}'
    for frame in (message, '{"content": "x"}', "nonsense", b"\xff", '{"type": "auth"}', '["auth"]'):
        async with visit(door, api) as visitor:
            await visitor.connection.send(frame)
            await visitor.authenticate(ROOT_KEY)
            text, code = await visitor.end()
            assert (SILENT in text, code) == (True, REFUSED)
    async with visit(door, api) as visitor:
        await visitor.authenticate("x" * FIRST_FRAME_BYTES)
        assert await visitor.end() == ("", TOO_BIG)
    monkeypatch.setattr("service.sockets.admission.FIRST_FRAME_SECONDS", 0.05)
    async with visit(door, api) as visitor:
        text, code = await visitor.end()
        assert (SILENT in text, code) == (True, REFUSED)
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_a_key_has_so_many_sockets_from_all_addresses(
    door: Door, start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(**CLOSED, client_open_streams=2, trusted_proxies=("127.0.0.0/8",))
    keys = [(await create_key(api, "read", "submit"))["key"] for _ in range(2)]
    of_address = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(4)]
    async with contextlib.AsyncExitStack() as opened:
        for address in of_address[:2]:
            visitor = await opened.enter_async_context(visit(door, api, bearer(keys[0]) | address))
            assert await visitor.is_admitted()
        status, headers, body = await refused_handshake(door, api, bearer(keys[0]) | of_address[2])
        assert (status, "retry-after" in headers, "CLIENT_OPEN_STREAMS" in body) == (429, True, True)
        async with visit(door, api, of_address[2], token=keys[0]) as page:
            text, code = await page.end()
            assert ("CLIENT_OPEN_STREAMS" in text, code) == (True, TRY_AGAIN_LATER)
        async with visit(door, api, bearer(keys[1]) | of_address[3]) as other:
            assert await other.is_admitted()

    async def again() -> bool:
        with contextlib.suppress(InvalidStatus):  # until the server has read that the others are closed
            async with visit(door, api, bearer(keys[0])) as visitor:
                return await visitor.is_admitted()
        return False

    await until(again)


async def test_a_silent_socket_ends_with_its_access(door: Door, api: Client, pass_time: PassTime) -> None:
    made = await create_key(api, "read", "submit")
    async with visit(door, api, token=made["key"]) as visitor:
        assert await visitor.is_admitted()
        await api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
        assert await visitor.end() == ("The key is revoked.", REFUSED)
    short, long, other = [
        await create_token(api, ROOT_KEY, "read", "submit", thread_id=thread_id, expires_in=seconds)
        for thread_id, seconds in (("t", 600), ("t", 6000), ("u", 6000))
    ]
    async with visit(door, api, token=short) as visitor, visit(door, api, token=short) as renewed:
        assert await visitor.is_admitted()
        for wrong, reason in ((other, "for another"), ("nonsense", "not valid")):
            await renewed.authenticate(wrong)
            assert reason in await renewed.error()
        await renewed.authenticate(long)
        assert await renewed.is_admitted()
        pass_time(601)
        assert await visitor.end() == (EXPIRED, REFUSED)
        assert await renewed.is_admitted()


async def test_frames_that_cannot_be_read_count_for_the_limit(
    start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(**CLOSED, client_requests_per_second=1.0)
    async with visit(DOORS["chat"], api, token=(await create_key(api, "read", "submit"))["key"]) as visitor:
        while True:
            await visitor.connection.send("nonsense")
            if "requests" in (said := await visitor.error()):
                break
            assert "not valid JSON" in said


async def test_with_auth_off_a_page_may_send_its_token(
    door: Door, start_api: StartApi, register_agents: RegisterAgents
) -> None:
    """So one page works with both kinds of API."""
    await register_agents()
    api = await start_api(auth="off")
    async with visit(door, api, {"Authorization": "Basic eDp5"}, token="nonsense") as visitor:
        await visitor.authenticate("nonsense")
        assert await visitor.is_admitted()


async def test_a_response_outlives_a_renewed_token(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent, pass_time: PassTime
) -> None:
    await start_worker(script.agent)
    api = await start_api(**CLOSED)
    short, long = [
        await create_token(api, ROOT_KEY, "read", "submit", thread_id="t", expires_in=seconds)
        for seconds in (600, 6000)
    ]
    async with visit(DOORS["responses"], api, token=short) as visitor:
        await visitor.connection.send('{"type": "response.create", "model": "script", "input": "x"}')
        begun = json.loads(await visitor.connection.recv())
        await visitor.authenticate(long)
        assert await visitor.is_admitted()
        pass_time(601)
        script.say(str(UUID(begun["response"]["id"].removeprefix("resp_"))), "a", None)
        numbers = [begun["sequence_number"]]
        while (event := json.loads(await visitor.connection.recv()))["type"] != "response.completed":
            numbers.append(event["sequence_number"])
        assert numbers == sorted(set(numbers))
