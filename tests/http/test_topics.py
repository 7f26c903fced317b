"""Topics and subscriptions over HTTP: declare, publish, read, stream, deliver."""

import asyncio
import gc
import gzip
import json
from typing import Any

import httpx
import pytest
import zstandard

from service.access.principal import AUTH_OFF
from service.config import Settings
from service.db.pool import Connection
from service.topics.model import Record, RecordPage
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.sse_reader import Event, Reader, open_stream
from tests.support.waiting import until
from treadle import Context, agent


async def declare(api: Client, path: str, **fields: Any) -> httpx.Response:
    answer = await api.put(path, json=fields)
    assert answer.status_code in (200, 201), answer.text
    return answer


async def publish(api: Client, topic: str, *values: Any, **fields: Any) -> list[str]:
    """Publish values and return the ids of their records."""
    body = {"records": [{"value": value, **fields} for value in values]}
    answer = await api.post(f"/topics/{topic}/records", json=body)
    assert answer.status_code == 202, answer.text
    return [record["record_id"] for record in answer.json()["records"]]


async def read(api: Client, topic: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/topics/{topic}/records", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def record_event(stream: Reader) -> Event:
    while True:
        if isinstance(block := await stream.next(), Event):
            return block


async def test_a_topic_is_declared_read_and_deleted(api_with_worker: Client) -> None:
    api = api_with_worker
    created = await declare(api, "/topics/plan.in", retention_hours=1)
    assert (created.status_code, created.json()["retention_hours"]) == (201, 1)
    assert (await declare(api, "/topics/plan.in", retention_hours=1)).status_code == 200
    changed = await declare(api, "/topics/plan.in", max_record_bytes=100)
    assert (changed.json()["max_record_bytes"], changed.json()["retention_hours"]) == (100, 168)
    one = await api.post("/topics/plan.in/records", json={"value": {"n": 1}, "key": "k", "headers": {"h": "x"}})
    assert one.status_code == 202
    [record] = one.json()["records"]
    [second, third] = await publish(api, "plan.in", "two", None)

    page = await read(api, "plan.in", wait=30)
    while page["next_offset"] < 3:
        page["records"] += (more := await read(api, "plan.in", offset=page["next_offset"], wait=30))["records"]
        page["next_offset"] = more["next_offset"]
    assert [(r["offset"], r["record_id"], r["value"]) for r in page["records"]] == [
        (0, record["record_id"], {"n": 1}),
        (1, second, "two"),
        (2, third, None),
    ]
    assert (page["records"][0]["key"], page["records"][0]["headers"]) == ("k", {"h": "x"})
    place = (await api.get(f"/records/{second}")).json()
    assert (place["topic"], place["offset"]) == ("plan.in", 1)
    assert [r["offset"] for r in (await read(api, "plan.in", offset=1, limit=1))["records"]] == [1]
    assert (await read(api, "plan.in", offset="latest"))["records"] == []
    topic = (await api.get("/topics/plan.in")).json()
    assert (topic["first_offset"], topic["next_offset"]) == (0, 3)
    assert [t["topic"] for t in (await api.get("/topics")).json()] == ["plan.in"]
    assert (await api.delete("/topics/plan.in")).status_code == 204
    assert (await api.get("/topics/plan.in")).status_code == 404


async def test_a_refusal_writes_nothing(api_with_worker: Client) -> None:
    api = api_with_worker
    await declare(api, "/topics/t", max_record_bytes=50)
    for path, body, status, reason in [
        ("/topics/t/records", {}, 422, "value is missing."),
        ("/topics/t/records", {"value": 1, "records": [{"value": 1}]}, 422, "one record, or records alone"),
        ("/topics/t/records", {"records": []}, 422, "records must be a list of 1 to 1000 records"),
        ("/topics/t/records", {"records": [{"value": 1}, {"value": "x" * 100}]}, 422, "records[1]: A record of this"),
        ("/topics/t/records", {"value": 1, "key": ""}, 422, "key must be"),
        ("/topics/t/records", {"value": 1, "headers": {"a": 1}}, 422, "headers must be an object of texts."),
        ("/topics/t/records", {"value": "?", "encoding": "base64"}, 422, "value must be a text in base64"),
        ("/topics/t/records", {"value": 1, "offset": 1}, 422, "offset"),
        ("/topics/none/records", {"value": 1}, 404, "There is no topic"),
    ]:
        answer = await api.post(path, json=body)
        assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text
    for path, status in [
        ("/topics/t/records?offset=soon", 400),
        ("/topics/t/records?wait=61", 400),
        ("/topics/none/records", 404),
        ("/topics/none/stream", 404),
        ("/records/x", 404),
        ("/records/00000000-0000-7000-8000-000000000000", 404),
        ("/subscriptions/none", 404),
    ]:
        answer = await api.get(path)
        assert answer.status_code == status, (path, answer.text)
    assert (await api.put("/topics/a%20b", json={})).status_code == 422
    assert (await api.put("/subscriptions/s", json={"topics": "a*", "agent": "echo"})).status_code == 422
    assert (await read(api, "t"))["records"] == []


async def test_a_publish_is_repeated_under_its_key_or_with_its_ids(api_with_worker: Client) -> None:
    api = api_with_worker
    await declare(api, "/topics/t")
    first, again = [
        await api.post("/topics/t/records", json={"value": 1}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert first.json() == again.json()
    other = await api.post("/topics/t/records", json={"value": 2}, headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    [record] = first.json()["records"]
    known = await api.post("/topics/t/records", json={"value": 1, "record_id": record["record_id"]})
    assert known.json()["records"] == [{**known.json()["records"][0], "record_id": record["record_id"], "known": True}]
    assert len((await read(api, "t", wait=30))["records"]) == 1


async def test_a_stream_resumes_after_any_offset(api_with_worker: Client) -> None:
    api = api_with_worker
    await declare(api, "/topics/t")
    await publish(api, "t", *range(5))
    async with open_stream(api, "/topics/t/stream?from=earliest") as stream:
        events = [await record_event(stream) for _ in range(5)]
        assert [(event.id, event.type, event.data["value"]) for event in events] == [(n, "record", n) for n in range(5)]
        async with open_stream(api, "/topics/t/stream", header=2) as resumed:
            assert [(await record_event(resumed)).id for _ in range(2)] == [3, 4]
            await publish(api, "t", "live")
            assert [(await record_event(s)).data["value"] for s in (stream, resumed)] == ["live", "live"]
        assert (await api.delete("/topics/t")).status_code == 204
        assert (await record_event(stream)).type == "deleted"
        assert await stream.ended()


async def test_a_stream_keeps_no_page_while_its_client_reads(settings: Settings, sql: Connection) -> None:
    """A page takes several times the bytes of its part, and a slow client takes its time."""

    def pages_and_records() -> list[Any]:
        return [kept for kept in gc.get_objects() if isinstance(kept, RecordPage | Record)]

    former = pages_and_records()  # of other tests
    async with api_server(settings) as server, Client(server.url) as client:
        await declare(client, "/topics/t")
        await publish(client, "t", "x")
        await sql.execute("select treadle.sequence_records()")
        services = server.api.parts.services
        key = await services["topics"].topic_key(AUTH_OFF, "t")
        stream = services["topic_streams"].stream(AUTH_OFF, "t", key, 0)
        while b"event: record" not in await anext(stream):
            pass
        assert not [kept for kept in pages_and_records() if not any(kept is other for other in former)]
        await stream.aclose()


async def test_an_offset_of_another_log_is_no_silence(api_with_worker: Client) -> None:
    """As of a reader whose topic was deleted and created again."""
    api = api_with_worker
    await declare(api, "/topics/t")
    await publish(api, "t", "a")
    assert [r["value"] for r in (await read(api, "t", wait=30))["records"]] == ["a"]
    refused = await api.get("/topics/t/records?offset=7&wait=30")
    assert (refused.status_code, "its next offset is 1" in refused.json()["detail"]) == (400, True)
    assert (await read(api, "t", offset=1))["next_offset"] == 1
    async with open_stream(api, "/topics/t/stream", header=6) as stream:
        gap, record = [await record_event(stream) for _ in range(2)]
        assert (gap.type, gap.data) == ("gap", {"after": 6, "next": 0})
        assert (record.id, record.data["value"]) == (0, "a")


async def test_a_long_poll_is_answered_with_the_first_record(api_with_worker: Client) -> None:
    api = api_with_worker
    await declare(api, "/topics/t")
    poll = asyncio.create_task(read(api, "t", offset=0, wait=60))
    await publish(api, "t", "x")
    assert [record["value"] for record in (await poll)["records"]] == ["x"]


@agent("collect")
async def collect(context: Context, record: Any) -> str:
    return json.dumps(record)


@pytest.fixture
async def collecting_api(start_api: StartApi, start_worker: StartWorker) -> Client:
    await start_worker(collect)
    return await start_api()


async def test_a_subscription_delivers_pauses_and_replays(collecting_api: Client) -> None:
    api = collecting_api
    await declare(api, "/topics/plan.in")
    fields: dict[str, Any] = {"topics": "plan.*", "agent": "collect", "from": "earliest"}
    assert (await declare(api, "/subscriptions/s", **fields)).status_code == 201
    assert (await declare(api, "/subscriptions/s", **fields)).status_code == 200
    await publish(api, "plan.in", {"a": 1}, 2, key="k")

    async def settled(completed: int) -> dict[str, Any]:
        async def get() -> dict[str, Any]:
            return dict((await api.get("/subscriptions/s")).json())

        return dict(await until(get, lambda s: s["completed"] == completed and s["open"] == 0))

    subscription = await settled(2)
    assert subscription["lag"] == 0
    assert subscription["positions"] == [{"topic": "plan.in", "next_offset": 2, "lag": 0}]
    assert (await api.post("/subscriptions/s/pause")).json()["paused"]
    await publish(api, "plan.in", "c", key="k")
    await until(lambda: read(api, "plan.in", offset=2), lambda page: len(page["records"]) == 1)
    await declare(api, "/topics/plan.out")  # joins
    await publish(api, "plan.out", "d")
    assert not (await api.post("/subscriptions/s/resume")).json()["paused"]
    await settled(4)
    moved = await api.post("/subscriptions/s/seek", json={"to": "earliest", "topic": "plan.in"})
    assert moved.status_code == 200, moved.text
    await settled(7)
    assert [s["subscription"] for s in (await api.get("/subscriptions")).json()] == ["s"]
    assert (await api.delete("/subscriptions/s")).status_code == 204
    assert (await api.get("/subscriptions/s")).status_code == 404


async def test_compressed_bodies_are_unpacked_to_a_bound(start_api: StartApi) -> None:
    api = await start_api(max_body_bytes=10_000)
    await declare(api, "/topics/t")
    body = json.dumps({"value": "x" * 5_000}).encode()
    packed = {"gzip": gzip.compress(body), "zstd": zstandard.compress(body), "identity": body}
    packed["x-gzip"] = packed["gzip"]

    async def post(content: bytes, encoding: str, path: str = "/topics/t/records") -> httpx.Response:
        headers = {"content-type": "application/json", "content-encoding": encoding}
        return await api.post(path, content=content, headers=headers)

    for encoding, content in packed.items():
        assert (await post(content, encoding)).status_code == 202, encoding
    bomb = b'{"value": "' + b"x" * 5_000_000
    for encoding, content in {"gzip": gzip.compress(bomb), "zstd": zstandard.compress(bomb)}.items():
        assert len(content) < 10_000
        assert (await post(content, encoding)).status_code == 413, encoding
        for damaged in (packed[encoding][:-5], b"x" * 50):
            assert (await post(damaged, encoding)).status_code == 400, (encoding, damaged)
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()  # as a stream, without its size
    begun = compressor.compress(body) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)  # all of the JSON
    ended = begun + compressor.flush()
    assert (await post(ended, "zstd")).status_code == 202
    for damaged in (begun, begun[:-9], ended + b"x", packed["zstd"] + b"x"):
        refused = await post(damaged, "zstd")
        assert (refused.status_code, "ends too early, or more follows" in refused.text) == (400, True), damaged
    assert (await post(packed["gzip"] + b"x", "gzip")).status_code == 400
    assert (await post(body, "br")).status_code == 415
    assert (await post(packed["gzip"], "gzip", "/messages")).status_code == 400
