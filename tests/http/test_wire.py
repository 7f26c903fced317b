"""What arrives on the connection: upgrades that are not taken, trailers, chunks, and errors before any route."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from service.api.server import MAX_HEAD_BYTES
from tests.support.api_client import Client
from tests.support.raw_http import exchange
from tests.support.waiting import LIMIT_SECONDS

BODY = b'{"message": "hello"}'
JDK_HEAD = (
    b"POST /messages HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: localhost\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"Content-Type: application/json\r\n"
)
CHUNKED_HEAD = (
    b"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def protocol_problem(answer: httpx.Response, status: int, words: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    found = answer.json()
    assert (found["type"], found["status"]) == ("about:blank", status)
    assert words in found["detail"]
    assert found["detail"].endswith(".")


OFFERS = {
    "one packet": [JDK_HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY],
    "two packets": [JDK_HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY],
    "half a body": [JDK_HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY[:7], BODY[7:]],
    "chunked": [JDK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n" % len(BODY) + BODY, b"\r\n0\r\n\r\n"],
    "expect": [JDK_HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY],
    "TLS": [JDK_HEAD.replace(b"h2c", b"TLS/1.0") + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY],
}


async def test_a_client_that_offers_another_protocol_keeps_its_body(api: Client, subtests: pytest.Subtests) -> None:
    for name, parts in OFFERS.items():
        with subtests.test(name):
            answer, *_ = await exchange(api, *parts)
            if answer.status_code == 100:
                continue  # the server asks for the body, so it reads it
            assert answer.status_code == 202, answer.text
            status = await api.status(answer.json()["message_id"])
            assert status["user_message"] == "hello"


async def test_a_connection_goes_on_after_an_offer(api: Client) -> None:
    offer = JDK_HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    answers = await exchange(api, offer, offer + live, live, answers=4)
    assert [answer.status_code for answer in answers] == [202, 202, 200, 200]


async def test_endless_trailers_are_431(api: Client) -> None:
    lines = b"x: y\r\n" * 2_000
    for trailers in ([lines] * 40, [b"x: " + b"y" * 20_000] * 20, [b"x" * 20_000] * 20):
        reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
        writer.write(CHUNKED_HEAD + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n")
        answer = await read_until_closed(reader, writer, trailers)
        assert answer.startswith(b"HTTP/1.1 431 ") or not answer  # the server may close before it is read


async def read_until_closed(reader: Any, writer: Any, parts: list[bytes]) -> bytes:
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return bytes(await asyncio.wait_for(reader.read(), LIMIT_SECONDS))
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_trailer_is_no_header(api: Client) -> None:
    body = b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n"
    [answer] = await exchange(api, CHUNKED_HEAD + body + b"Idempotency-Key: 1\r\nContent-Type: text/plain\r\n\r\n")
    assert answer.status_code == 202
    [other] = await exchange(api, CHUNKED_HEAD + body + b"Idempotency-Key: 1\r\n\r\n")
    assert other.json()["message_id"] != answer.json()["message_id"]


async def test_a_body_in_small_chunks_is_no_trailer(api: Client) -> None:
    text = "x" * 3 * MAX_HEAD_BYTES
    body = json.dumps({"message": "m", "metadata": {"text": text}}).encode()
    chunks = b"".join(b"2;extension\r\n" + body[start : start + 2] + b"\r\n" for start in range(0, len(body) - 1, 2))
    rest = b"1\r\n" + body[-1:] + b"\r\n" if len(body) % 2 else b""
    [answer] = await exchange(api, CHUNKED_HEAD, chunks + rest + b"0\r\n\r\n")
    assert answer.status_code == 202
    assert (await api.status(answer.json()["message_id"]))["metadata"] == {"text": text}


NOT_HTTP = [
    (b"nonsense\r\n\r\n", 400, "not valid HTTP"),
    (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "not valid HTTP"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not valid HTTP"),
    (b"FOO /queue HTTP/1.1\r\n\r\n", 400, "not valid HTTP"),
    (
        b"GET /ws/t HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        400,
        "Sec-WebSocket-Key",
    ),
    (
        b"GET /nope HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        403,
        "no socket at this address",
    ),
]


async def test_an_error_before_any_route_is_a_problem(api: Client, subtests: pytest.Subtests) -> None:
    for request_head, status, words in NOT_HTTP:
        with subtests.test(request_head=request_head):
            reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
            writer.write(request_head)
            head, _, body = (await asyncio.wait_for(reader.read(), LIMIT_SECONDS)).partition(b"\r\n\r\n")
            writer.close()
            status_line, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            answer = httpx.Response(int(status_line.split()[1]), headers=headers, content=body)
            protocol_problem(answer, status, words)
