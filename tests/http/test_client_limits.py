"""What one client may ask of an API, and that others keep theirs."""

import asyncio
import contextlib

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from service.client_limits import BURST_SECONDS, HEALTH_PER_SECOND, MAX_CLIENTS, ClientLimits, address_of
from service.config import Settings
from service.errors import TooManyRequests
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, create_token
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.raw_http import exchange
from tests.support.remote_worker import RemoteWorker
from tests.support.sse_reader import open_stream, stream_path
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from tests.support.websocket_client import chat_url, open_socket

OTHER = {"X-Forwarded-For": "192.0.2.7"}
ONCE = 0.01  # requests a second: a second request is refused, however long the machine takes for the first one


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client_limits.PAUSE_SECONDS", 0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(limits: ClientLimits, client: str, tries: int) -> int:
    """How many of so many requests are accepted."""
    count = 0
    for _ in range(tries):
        with contextlib.suppress(TooManyRequests):
            limits.count_request(client)
            count += 1
    return count


def test_the_rate_holds_over_time_and_for_each_client_alone() -> None:
    clock = Clock()
    limits = ClientLimits(Settings(client_requests_per_second=8), clock)
    assert taken(limits, "a", 100) == 17  # two seconds' worth at once, and the one that is due
    with pytest.raises(TooManyRequests) as refused:
        limits.count_request("a")
    assert refused.value.retry_after == 1
    assert taken(limits, "b", 100) == 17
    clock.now += 1
    assert taken(limits, "a", 100) == 8
    clock.now += 0.5
    assert taken(limits, "a", 100) == 4
    clock.now += 100
    assert taken(limits, "a", 100) == 17


def test_health_checks_have_a_budget_of_their_own() -> None:
    limits = ClientLimits(Settings(client_requests_per_second=1), Clock())
    taken(limits, "a", 100)
    for _ in range(int(HEALTH_PER_SECOND * BURST_SECONDS)):
        limits.count_health_check("a")
    with contextlib.suppress(TooManyRequests):
        limits.count_health_check("a")
    with pytest.raises(TooManyRequests, match="health checks"):
        limits.count_health_check("a")
    limits.count_health_check("b")


def test_the_memory_for_clients_is_bounded_and_a_flood_of_them_frees_no_busy_one() -> None:
    clock = Clock()
    limits = ClientLimits(Settings(client_requests_per_second=1), clock)
    for number in range(MAX_CLIENTS):
        limits.count_request(str(number))
    clock.now += 1  # all of them have their burst again
    assert taken(limits, "busy", 100) == 3
    for number in range(MAX_CLIENTS + 10):
        limits.count_request(f"new {number}")
    assert len(limits._free_at) <= MAX_CLIENTS
    limits.count_request(f"new {MAX_CLIENTS}")


@pytest.mark.parametrize(
    ("host", "limited"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True), ("192.0.2.1", True)]
)
def test_an_api_on_loopback_has_no_limits_by_default(host: str, limited: bool) -> None:
    limits = ClientLimits(Settings(host=host), Clock())
    assert (taken(limits, "a", 5_000) < 5_000) is limited
    assert (limits.streams == 1_000) is limited
    behind_proxy = ClientLimits(Settings(host=host, trusted_proxies=("127.0.0.1",)), Clock())
    assert behind_proxy.streams == 1_000
    explicit = ClientLimits(Settings(host=host, client_requests_per_second=1, client_open_streams=3), Clock())
    assert (taken(explicit, "a", 10), explicit.streams) == (3, 3)


def test_a_network_of_ipv6_is_one_client() -> None:
    assert address_of(("2001:db8:1:2:3:4:5:6", 1)) == address_of(("2001:db8:1:2::1", 2)) == "2001:db8:1:2::/64"
    assert address_of(("::ffff:192.0.2.1", 1)) == address_of(("192.0.2.1", 1)) == "192.0.2.1"
    assert address_of(None) == ""
    assert address_of(("x" * 1_000, 1)) == "x" * 100


async def test_a_flood_is_429_and_costs_no_other_client(start_api: StartApi) -> None:
    api = await start_api(client_requests_per_second=ONCE, trusted_proxies=("127.0.0.0/8",))
    answers = [await api.get("/threads") for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 19
    problem(refused[-1], 429, "CLIENT_REQUESTS_PER_SECOND")
    assert int(refused[-1].headers["retry-after"]) >= 1
    assert refused[-1].headers["x-content-type-options"] == "nosniff"
    assert (await api.get("/threads", headers=OTHER)).status_code == 200
    for _ in range(20):
        assert (await api.get("/health/live")).status_code == 200


async def test_a_client_gets_no_new_budget_by_naming_another_address(
    start_api: StartApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start_api(client_requests_per_second=ONCE)
    headers = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(20)]
    answers = [await api.get("/threads", headers=header) for header in headers]
    assert [answer.status_code for answer in answers].count(429) > 1
    assert caplog.text.count("TRUSTED_PROXIES") == 1  # a proxy that the settings do not name looks like this


async def test_a_refusal_waits_so_that_a_flood_keeps_nothing_busy(
    start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start_api(client_requests_per_second=ONCE, trusted_proxies=("127.0.0.0/8",))
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await go_on.wait()

    monkeypatch.setattr("service.api.gate.layer.pause", wait)
    flood = asyncio.create_task(answered(api, 10))
    await wait_for(waiting)
    assert (await api.get("/threads", headers=OTHER)).status_code == 200
    assert not flood.done()
    go_on.set()
    assert (await flood)[-1] == 429


async def answered(api: Client, count: int) -> list[int]:
    return [(await api.get("/threads")).status_code for _ in range(count)]


async def test_sockets_count_as_requests(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents()
    api = await start_api(client_requests_per_second=ONCE)

    async def open_many() -> None:
        for _ in range(20):
            async with open_socket(chat_url(api, "t")) as chat:
                await chat.frame()

    with pytest.raises(InvalidStatus) as refused:
        await open_many()
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["retry-after"]


async def test_frames_count_as_requests(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents()
    api = await start_api(client_requests_per_second=1, **CLOSED)
    url = f"{chat_url(api, 't')}&token={ROOT_KEY}"
    async with open_socket(url) as chat:
        for number in range(20):
            await chat.send("user_input", text="x", key=str(number))
        refused = await chat.find(type="error")
        assert ("CLIENT_REQUESTS_PER_SECOND" in refused["detail"], refused["retry_after"]) == (True, 1)
        await chat.send("ping")
        await chat.find(type="pong")


async def test_open_streams_and_sockets_have_a_limit_together(
    start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(client_open_streams=2, trusted_proxies=("127.0.0.0/8",))
    path = stream_path(await api.submit("x", thread_id="t"))
    async with open_stream(api, path) as stream, open_socket(chat_url(api, "t")) as chat:
        await stream.until("queued")
        await chat.frame()
        for refused in (await api.get(path), await api.get("/threads/t/stream")):
            problem(refused, 429, "CLIENT_OPEN_STREAMS")
            assert refused.headers["retry-after"]
        with pytest.raises(InvalidStatus) as error:
            async with open_socket(chat_url(api, "t")):
                pass
        assert error.value.response.status_code == 429
        await api.submit("y", thread_id="u")  # other requests have room
        async with open_socket(chat_url(api, "t"), additional_headers=OTHER) as other:
            assert (await other.frame())["status"] == "open"

    async def opens() -> bool:
        try:
            async with open_socket(chat_url(api, "t")), open_socket(chat_url(api, "t")):
                return True
        except InvalidStatus:
            return False

    await until(opens)  # as soon as the server has seen that the client is gone


async def test_polls_that_wait_count_as_open_streams(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents()
    api = await start_api(client_open_streams=1)
    await api.put("/topics/t", json={})
    worker = RemoteWorker(api)
    await worker.register("echo")
    async with open_stream(api, "/topics/t/stream"):
        for polled in (await api.get("/topics/t/records?wait=60"), await worker.call("claim", wait=60)):
            problem(polled, 429, "CLIENT_OPEN_STREAMS")
        assert (await api.get("/topics/t/records")).status_code == 200


def from_address(number: int, credential: str) -> dict[str, str]:
    return {**bearer(credential), "X-Forwarded-For": f"192.0.2.{number}"}


async def test_a_key_has_one_budget_from_all_addresses(start_api: StartApi) -> None:
    api = await start_api(client_requests_per_second=1, trusted_proxies=("127.0.0.0/8",), **CLOSED)
    flooding, quiet = [(await create_key(api, "read", "submit", "admin"))["key"] for _ in range(2)]
    token = await create_token(api, flooding, "read", subject="u", expires_in=600)
    answers = [await api.get("/threads", headers=from_address(number, flooding)) for number in range(30)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) >= 10
    problem(refused[-1], 429, "CLIENT_REQUESTS_PER_SECOND")
    assert refused[-1].headers["retry-after"]
    for credential in (quiet, token):
        assert (await api.get("/threads", headers=from_address(100, credential))).status_code == 200
    wrong = quiet[:-1] + ("0" if quiet[-1] != "0" else "1")  # a stranger who knows the id uses up none of its budget
    for number in range(30):
        assert (await api.get("/threads", headers=from_address(101 + number, wrong))).status_code == 401
    assert (await api.get("/threads", headers=from_address(150, quiet))).status_code == 200


async def test_a_key_has_one_number_of_open_streams(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents()
    api = await start_api(client_open_streams=2, trusted_proxies=("127.0.0.0/8",), **CLOSED)
    key, other = [(await create_key(api, "read", "submit"))["key"] for _ in range(2)]
    await api.post("/messages", json={"message": "x", "thread_id": "t"}, headers=bearer(key))
    url = chat_url(api, "t")
    async with (
        open_socket(url, additional_headers=from_address(1, key)) as first,
        open_socket(f"{url}&token={key}", additional_headers=from_address(2, key)) as second,
    ):
        for chat in (first, second):
            assert (await chat.frame())["status"] == "open"
        problem(await api.get("/threads/t/stream", headers=from_address(3, key)), 429, "CLIENT_OPEN_STREAMS")
        with pytest.raises(InvalidStatus) as refused:
            async with open_socket(url, additional_headers=from_address(4, key)):
                pass
        assert refused.value.response.status_code == 429
        forwarded = {"X-Forwarded-For": "192.0.2.5"}
        async with open_socket(f"{url}&token={key}", additional_headers=forwarded) as late:
            [error], code = await late.rest()
            assert ("CLIENT_OPEN_STREAMS" in error["detail"], error["retry_after"], code) == (True, 10, 1013)
        async with open_socket(url, additional_headers=from_address(6, other)) as third:
            assert (await third.frame())["status"] == "open"


async def test_connections_of_one_address_have_a_limit(start_api: StartApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client_limits.SHORT_CONNECTIONS", 4)
    api = await start_api(client_open_streams=1)
    idle = [await asyncio.open_connection(api.base_url.host, api.base_url.port) for _ in range(5)]
    try:
        reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
        answer = await asyncio.wait_for(reader.read(), LIMIT_SECONDS)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in answer
        writer.close()
    finally:
        for _, opened in idle:
            opened.close()

    async def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await api.get("/health/live")).status_code == 200
        return False

    await until(answers)

    async def opens() -> bool:
        try:
            async with open_socket(chat_url(api, "t")) as chat:
                await chat.frame()
        except InvalidStatus:  # the session of the socket before has not ended yet
            return False
        return True

    for _ in range(6):  # a socket gives the place of its connection back, also when it opens
        await until(opens)


async def test_a_body_that_no_route_reads_ends(start_api: StartApi) -> None:
    api = await start_api(max_body_bytes=10_000)
    head = b"POST /queues/none/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
    answer = b""
    with contextlib.suppress(ConnectionError):
        for _ in range(30):
            writer.write(b"3e8\r\n" + b"x" * 1_000 + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), LIMIT_SECONDS)  # to its end
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 413 ")) or not answer
    assert answer.count(b"HTTP/1.1 ") <= 1  # a second one would answer the client's next request
    writer.close()


@pytest.mark.parametrize("extra", [b"Transfer-Encoding: chunked", b"Content-Length: 20000"])
async def test_a_body_that_is_too_large_is_413(start_api: StartApi, extra: bytes) -> None:
    api = await start_api(max_body_bytes=10_000)
    head = b"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + extra + b"\r\n\r\n"
    body = b"4650\r\n" + b"x" * 18_000 + b"\r\n0\r\n\r\n"
    [answer] = await exchange(api, head, body)
    problem(answer, 413, "MAX_BODY_BYTES")
