"""Unknown routes and ids, bad parameters and full queues are refused as problem+json."""

from typing import Any

from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID, named_case, problem, row_counts
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi


async def test_a_full_queue_is_429(start_api: StartApi, register_agents: Any, sql: Connection) -> None:
    await register_agents()
    api = await start_api(max_queue_size=3)
    await api.submit("1")
    await api.submit("2", delay_seconds=60)
    before = await row_counts(sql)
    answer = await api.post("/messages/batch", json={"messages": [{"message": "3"}, {"message": "4"}]})
    problem(answer, 429, "full", "at most 3")
    assert int(answer.headers["retry-after"]) >= 1
    assert await row_counts(sql) == before
    third = await api.submit("3")
    before = await row_counts(sql)
    answer = await api.post("/messages", json={"message": "4"}, headers={"Idempotency-Key": "4"})
    problem(answer, 429, "full")
    assert int(answer.headers["retry-after"]) >= 1
    assert await row_counts(sql) == before
    assert (await api.delete(f"/messages/{third}")).status_code == 200
    answer = await api.post("/messages", json={"message": "4"}, headers={"Idempotency-Key": "4"})
    assert answer.status_code == 202  # there is room again, and the refused request did not use the key


async def test_a_bad_idempotency_key_is_refused(api: Client, sql: Connection) -> None:
    before = await row_counts(sql)
    for key in ("", "k" * 256):
        answer = await api.post("/messages", json={"message": "x"}, headers={"Idempotency-Key": key})
        problem(answer, 422, "Idempotency-Key")
    assert await row_counts(sql) == before


BAD_IDS = [
    "x",
    "123",
    "%20",
    UNKNOWN_ID[:-1],
    f"{UNKNOWN_ID}0",
    f"{UNKNOWN_ID[:-1]}g",
    "%00",
    "%ff",
    "null",
    "'; drop table x",
]


async def test_an_id_that_is_no_uuid_is_unknown(api: Client) -> None:
    for bad in BAD_IDS:
        for method, path in (
            ("GET", "/status"),
            ("GET", "/events"),
            ("GET", "/stream"),
            ("POST", "/redrive"),
            ("DELETE", ""),
        ):
            with named_case(f"{method} {bad}{path}"):
                problem(await api.request(method, f"/messages/{bad}{path}"), 404, "There is no message")


async def test_unknown_messages_threads_and_queues_are_404(api: Client, sql: Connection) -> None:
    before = await row_counts(sql)
    for method, path in (
        ("GET", f"/messages/{UNKNOWN_ID}/status"),
        ("GET", f"/messages/{UNKNOWN_ID}/events"),
        ("GET", f"/messages/{UNKNOWN_ID}/stream"),
        ("DELETE", f"/messages/{UNKNOWN_ID}"),
        ("POST", f"/messages/{UNKNOWN_ID}/redrive"),
        ("GET", "/threads/unknown"),
        ("GET", "/threads/unknown/messages"),
        ("GET", "/threads/unknown/stream"),
        ("DELETE", "/threads/unknown"),
        ("GET", "/queues/unknown"),
        ("GET", "/queues/unknown/dead-letters"),
        ("POST", "/queues/unknown/pause"),
        ("POST", "/queues/unknown/resume"),
    ):
        found = problem(await api.request(method, path), 404, UNKNOWN_ID if UNKNOWN_ID in path else "unknown")
        assert found["title"] == "Not found"
    assert await row_counts(sql) == before


async def test_an_unknown_route_is_404(api: Client) -> None:
    for method, path in (
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("GET", "/messages/batch/nope"),
        ("GET", f"/messages/{UNKNOWN_ID}/nope"),
        ("GET", "/threads/a/b/c"),
        ("GET", "/redoc/nope"),
        ("GET", "/favicon.ico"),
        ("GET", "/nope%00"),
    ):
        with named_case(f"{method} {path}"):
            assert problem(await api.request(method, path), 404, "There is no route")["title"] == "Not found"


async def test_a_method_that_a_route_lacks_is_405(api: Client) -> None:
    for method, path, allowed in (
        ("PUT", "/messages", "POST"),
        ("PUT", f"/messages/{UNKNOWN_ID}", "DELETE"),
        ("POST", f"/messages/{UNKNOWN_ID}/status", "GET"),
        ("DELETE", "/queue", "GET"),
        ("GET", "/queues/default/pause", "POST"),
        ("PUT", "/threads/t", "GET"),
    ):
        with named_case(f"{method} {path}"):
            answer = await api.request(method, path)
            problem(answer, 405, method, allowed)
            assert allowed in answer.headers["allow"]


BAD_PARAMETERS: dict[str, tuple[str, ...]] = {
    "/threads?limit=": ("0", "-1", "1001", "x", "", "1e9"),
    "/threads/t/messages?limit=": ("0", "1001", "9" * 30),
    "/queues/default/dead-letters?limit=": ("0", "1001", "x"),
    f"/messages/{UNKNOWN_ID}/events?limit=": ("0", "1001", "x"),
    f"/messages/{UNKNOWN_ID}/events?after=": ("-1", "x", "2147483648", "1.5"),
    f"/messages/{UNKNOWN_ID}/stream?after=": ("-1", "x", "9" * 20, "9" * 5000, "%D9%A3"),
    "/threads/t/stream?after=": ("-1", "x", "9223372036854775808", "9" * 5000),
    "/threads?cursor=": (
        *("x", "", "%00", "AAAA", "MjAyNi0wMS0wMQ==", "9" * 5000),
        "OTk5OS0xMi0zMVQyMzo1OTo1OS0yMzo1OSAx",  # 9999-12-31T23:59:59-23:59 1
        "MjAyNi0wMS0wMVQwMDowMDowMCswMDowMCA5OTk5OTk5OTk5OTk5OTk5OTk5",  # ... 9999999999999999999
    ),
    "/threads/t/messages?cursor=": ("x", "", "-1", "1.5", "9" * 30),
}


async def test_a_bad_parameter_is_400(api: Client) -> None:
    await api.submit("x", thread_id="t")
    for path, values in BAD_PARAMETERS.items():
        for value in values:
            with named_case(path + value[:40]):
                problem(await api.get(path + value), 400, path.rpartition("?")[2].rstrip("="))


async def test_a_bad_last_event_id_is_400(api: Client) -> None:
    message_id = await api.submit("x", thread_id="t")
    for seen in ("x", "-1", "1.0", "0x1", "9" * 20, "9" * 5000):
        for path in (f"/messages/{message_id}/stream", "/threads/t/stream"):
            with named_case(f"{path} after {seen[:40]}"):
                problem(await api.get(path, headers={"Last-Event-ID": seen}), 400, "Last-Event-ID")


async def test_a_nul_in_a_path_is_422(api: Client) -> None:
    for path in ("/threads/%00", "/threads/a%00b/messages", "/threads/%00/stream", "/queues/%00"):
        problem(await api.get(path), 422, "NUL")
