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
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.socket_dialects import SOCKET_DIALECTS, SocketDialect, open_socket_of
from tests.support.waiting import until

REFUSED, TOO_BIG, TRY_AGAIN_LATER = 1008, 1009, 1013
SILENT = "within 5 seconds as the first frame"
EXPIRED = "The key or token has expired."


@pytest.fixture(params=SOCKET_DIALECTS)
def dialect(request: pytest.FixtureRequest) -> SocketDialect:
    return SOCKET_DIALECTS[request.param]


@pytest.fixture
async def api(start_api: StartApi, register_agents: RegisterAgents) -> Client:
    """It looks at the access of silent sockets twice a second."""
    await register_agents()
    return await start_api(**CLOSED, keepalive_interval=0.5)


async def refused_handshake(
    dialect: SocketDialect, api: Client, headers: dict[str, str]
) -> tuple[int, dict[str, str], str]:
    """Its status, headers and body."""
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket_of(dialect, api, headers):
            pass
    answer = caught.value.response
    return answer.status_code, {name.lower(): value for name, value in answer.headers.raw_items()}, str(answer.body)


async def refused_page(dialect: SocketDialect, api: Client, credential: str) -> tuple[str, int | None]:
    """What a page is told that sends this token in the address, or in its first frame."""
    async with open_socket_of(dialect, api, token=credential) as by_query:
        told = await by_query.end()
    async with open_socket_of(dialect, api) as by_frame:
        await by_frame.authenticate(credential)
        assert await by_frame.end() == told
    return told


async def test_each_way_to_send_a_key_opens_it(dialect: SocketDialect, api: Client) -> None:
    key = (await create_key(api, "read", "submit"))["key"]
    async with open_socket_of(dialect, api, bearer(key)) as by_header:
        assert await by_header.is_admitted()
    async with open_socket_of(dialect, api, {"Authorization": f"bEaReR   {key} "}, token="nonsense") as by_odd_header:
        assert await by_odd_header.is_admitted()
    async with open_socket_of(dialect, api, token=key) as by_query:
        assert await by_query.is_admitted()
    async with open_socket_of(dialect, api) as by_frame:
        await by_frame.authenticate(key)
        assert await by_frame.is_admitted()


async def test_a_bad_key_is_refused(dialect: SocketDialect, api: Client, pass_time: PassTime) -> None:
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
        found, headers, body = await refused_handshake(dialect, api, bearer(credential))
        assert (found, reason in body) == (status, True), (found, body)
        assert headers.get("www-authenticate", "").startswith("Bearer") == (status == 401)
        text, code = await refused_page(dialect, api, credential)
        assert (reason in text, code) == (True, REFUSED), text
    found, _, _ = await refused_handshake(dialect, api, {"Authorization": "Basic dTpw"})
    assert found == 401
    async with open_socket_of(dialect, api) as socket:  # no header of a handshake is that long
        await socket.authenticate("x" * 10_001)
        assert await socket.end() == ("The key or token is too long.", REFUSED)


async def test_nothing_is_read_before_the_key(
    dialect: SocketDialect, api: Client, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = '{"type": "user_input", "text": "x"}'
    for frame in (message, '{"content": "x"}', "nonsense", b"\xff", '{"type": "auth"}', '["auth"]'):
        async with open_socket_of(dialect, api) as socket:
            await socket.connection.send(frame)
            await socket.authenticate(ROOT_KEY)
            text, code = await socket.end()
            assert (SILENT in text, code) == (True, REFUSED)
    async with open_socket_of(dialect, api) as socket:
        await socket.authenticate("x" * FIRST_FRAME_BYTES)
        assert await socket.end() == ("", TOO_BIG)
    monkeypatch.setattr("service.sockets.admission.FIRST_FRAME_SECONDS", 0.05)
    async with open_socket_of(dialect, api) as socket:
        text, code = await socket.end()
        assert (SILENT in text, code) == (True, REFUSED)
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_a_key_has_so_many_sockets_from_all_addresses(
    dialect: SocketDialect, start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(**CLOSED, client_open_streams=2, trusted_proxies=("127.0.0.0/8",))
    keys = [(await create_key(api, "read", "submit"))["key"] for _ in range(2)]
    of_address = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(4)]
    async with contextlib.AsyncExitStack() as opened:
        for address in of_address[:2]:
            socket = await opened.enter_async_context(open_socket_of(dialect, api, bearer(keys[0]) | address))
            assert await socket.is_admitted()
        status, headers, body = await refused_handshake(dialect, api, bearer(keys[0]) | of_address[2])
        assert (status, "retry-after" in headers, "CLIENT_OPEN_STREAMS" in body) == (429, True, True)
        async with open_socket_of(dialect, api, of_address[2], token=keys[0]) as page:
            text, code = await page.end()
            assert ("CLIENT_OPEN_STREAMS" in text, code) == (True, TRY_AGAIN_LATER)
        async with open_socket_of(dialect, api, bearer(keys[1]) | of_address[3]) as other:
            assert await other.is_admitted()

    async def again() -> bool:
        with contextlib.suppress(InvalidStatus):  # until the server has read that the others are closed
            async with open_socket_of(dialect, api, bearer(keys[0])) as socket:
                return await socket.is_admitted()
        return False

    await until(again)


async def test_a_silent_socket_ends_with_its_access(dialect: SocketDialect, api: Client, pass_time: PassTime) -> None:
    made = await create_key(api, "read", "submit")
    async with open_socket_of(dialect, api, token=made["key"]) as socket:
        assert await socket.is_admitted()
        await api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
        assert await socket.end() == ("The key is revoked.", REFUSED)
    short, long, other = [
        await create_token(api, ROOT_KEY, "read", "submit", thread_id=thread_id, expires_in=seconds)
        for thread_id, seconds in (("t", 600), ("t", 6000), ("u", 6000))
    ]
    async with (
        open_socket_of(dialect, api, token=short) as socket,
        open_socket_of(dialect, api, token=short) as renewed,
    ):
        assert await socket.is_admitted()
        for wrong, reason in ((other, "for another"), ("nonsense", "not valid")):
            await renewed.authenticate(wrong)
            assert reason in await renewed.error()
        await renewed.authenticate(long)
        assert await renewed.is_admitted()
        pass_time(601)
        assert await socket.end() == (EXPIRED, REFUSED)
        assert await renewed.is_admitted()


async def test_frames_that_cannot_be_read_count_for_the_limit(
    start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(**CLOSED, client_requests_per_second=1.0)
    async with open_socket_of(
        SOCKET_DIALECTS["chat"], api, token=(await create_key(api, "read", "submit"))["key"]
    ) as socket:
        while True:
            await socket.connection.send("nonsense")
            if "requests" in (said := await socket.error()):
                break
            assert "not valid JSON" in said


async def test_with_auth_off_a_page_may_send_its_token(
    dialect: SocketDialect, start_api: StartApi, register_agents: RegisterAgents
) -> None:
    """So one page works with both kinds of API."""
    await register_agents()
    api = await start_api(auth="off")
    async with open_socket_of(dialect, api, {"Authorization": "Basic eDp5"}, token="nonsense") as socket:
        await socket.authenticate("nonsense")
        assert await socket.is_admitted()


async def test_a_response_outlives_a_renewed_token(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent, pass_time: PassTime
) -> None:
    await start_worker(script.agent)
    api = await start_api(**CLOSED)
    short, long = [
        await create_token(api, ROOT_KEY, "read", "submit", thread_id="t", expires_in=seconds)
        for seconds in (600, 6000)
    ]
    async with open_socket_of(SOCKET_DIALECTS["responses"], api, token=short) as socket:
        await socket.connection.send('{"type": "response.create", "model": "script", "input": "x"}')
        begun = json.loads(await socket.connection.recv())
        await socket.authenticate(long)
        assert await socket.is_admitted()
        pass_time(601)
        script.say(str(UUID(begun["response"]["id"].removeprefix("resp_"))), "a", None)
        numbers = [begun["sequence_number"]]
        while (event := json.loads(await socket.connection.recv()))["type"] != "response.completed":
            numbers.append(event["sequence_number"])
        assert numbers == sorted(set(numbers))
