"""The gate: by which names the API answers, which pages may use it, and what a page can send without asking first."""

from typing import Any

import httpx
import pytest
from litestar._parsers import parse_query_string
from websockets.exceptions import InvalidStatus

from tests.support.access import CLOSED
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.raw_http import exchange
from tests.support.websocket_client import chat_url, open_socket

JSON = "Content-Type: application/json"
BODY = '{"message": "x"}'
APP = "https://app.example.org"


async def ask(
    api: Client, *lines: str, body: str = "", target: str = "/threads", method: str = "GET"
) -> httpx.Response:
    """Send a request with exactly these header lines."""
    length = [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, *length])
    [answer] = await exchange(api, f"{head}\r\n\r\n{body}".encode())
    return answer


async def submit(api: Client, *lines: str, body: str = BODY) -> httpx.Response:
    return await ask(api, "Host: localhost", *lines, body=body, target="/messages", method="POST")


OWN_NAMES = ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "127.1.2.3", "[::1]", "[0::1]:8000"]


async def test_names_of_loopback_are_answered(api: Client) -> None:
    for host in OWN_NAMES:
        assert (await ask(api, f"Host: {host}")).status_code == 200


FOREIGN_NAMES = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "evil.example.", "127.0.0.1.evil.example"),
    *("192.0.2.1", "[2001:db8::1]", "xn--lcalhost-c1a", "0.0.0.0"),
]


async def test_a_name_that_was_pointed_at_this_machine_is_refused(api: Client) -> None:
    for host in FOREIGN_NAMES:
        for target in ("/threads", "/docs", "/chat", "/nope", "/openapi.json"):
            problem(await ask(api, f"Host: {host}", target=target), 421, "is not known as", "ALLOWED_HOSTS")
        answer = await ask(api, f"Host: {host}", JSON, body=BODY, target="/messages", method="POST")
        problem(answer, 421, "ALLOWED_HOSTS")
        problem(await ask(api, f"Host: {host}", method="OPTIONS"), 421, "ALLOWED_HOSTS")


MALFORMED_HOSTS: list[list[str]] = [
    *([], ["Host:"], ["Host: user@localhost"], ["Host: localhost@evil.example"], ["Host: localhost, evil.example"]),
    *(["Host: [::1"], ["Host: localhost:x"], ["Host: l\u00f6calhost"], [f"Host: {'x' * 5000}"]),
    ["Host: localhost", "Host: evil.example"],
    ["Host: localhost", "hOST: localhost"],
]


async def test_a_malformed_host_is_400(api: Client) -> None:
    for lines in MALFORMED_HOSTS:
        problem(await ask(api, *lines), 400, "Host" if len(lines) < 2 else "more than once")


async def test_the_host_of_an_absolute_target_counts(api: Client) -> None:
    assert (await ask(api, "Host: evil.example", target="http://localhost:1/threads")).status_code == 200
    problem(await ask(api, "Host: localhost", target="http://evil.example/threads"), 421, "evil.example")
    problem(await ask(api, "Host: localhost", target="http://localhost@evil.example/threads"), 400, "Host")


async def test_a_request_of_http_1_0_needs_a_host(api: Client) -> None:
    [answer] = await exchange(api, b"GET /threads HTTP/1.0\r\n\r\n")
    problem(answer, 400, "Host")
    [answer] = await exchange(api, b"GET /health/live HTTP/1.0\r\n\r\n")
    assert answer.status_code == 200


async def test_a_health_check_may_name_any_address_but_no_foreign_name(start_api: StartApi) -> None:
    api = await start_api(allowed_hosts=("api.example.org",))
    for host in ("api.example.org", "10.1.2.3:8000", "localhost", "[2001:db8::1]"):
        assert (await ask(api, f"Host: {host}", target="/health/live")).status_code == 200, host
    problem(await ask(api, "Host: evil.example", target="/health/live"), 421, "ALLOWED_HOSTS")
    problem(await ask(api, "Host: localhost"), 421, "localhost", "ALLOWED_HOSTS")
    assert (await ask(api, "Host: API.example.org:8443")).status_code == 200


OWN: list[list[str]] = [
    [],
    ["Origin: http://localhost"],
    ["Origin: http://LOCALHOST:80"],
    ["Origin: https://localhost"],  # behind a proxy that speaks TLS
    ["Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Site: none"],
    ["Origin: http://localhost", "Sec-Fetch-Site: same-origin"],
]


async def test_own_pages_and_other_programs_may_write(api: Client) -> None:
    for lines in OWN:
        assert (await submit(api, JSON, *lines)).status_code == 202


FOREIGN: list[list[str]] = [
    *(["Origin: null"], ["Origin:"], ["Origin: https://evil.example"], ["Origin: http://localhost:3000"]),
    *(
        ["Origin: http://localhost.evil.example"],
        ["Origin: http://127.0.0.1"],
        ["Origin: http://localhost@evil.example"],
    ),
    *(
        ["Origin: http://evil.example#http://localhost"],
        ["Origin: http://localhost/"],
        ["Origin: http://localhos\u0167"],
    ),
    *(["Sec-Fetch-Site: cross-site"], ["Sec-Fetch-Site: same-site"], ["Sec-Fetch-Site: SAME-ORIGIN, cross-site"]),
    ["Origin: http://localhost", "Sec-Fetch-Site: cross-site"],  # a page without TLS, of a host with it
    ["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"],
    ["Origin: https://evil.example", "Sec-Fetch-Site: none"],
    ["Origin: https://evil.example", "X-Forwarded-Host: evil.example"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"],
]


async def test_foreign_pages_may_not_write(api: Client) -> None:
    for lines in FOREIGN:
        answer = await submit(api, JSON, *lines)
        problem(answer, 403, "may not use this API", "CORS_ORIGINS")
        assert "access-control-allow-origin" not in answer.headers
        for method, target in (("POST", "/queues/default/pause"), ("DELETE", "/threads/t"), ("PATCH", "/threads/t")):
            problem(await ask(api, "Host: localhost", *lines, method=method, target=target), 403, "CORS_ORIGINS")
        assert (await api.get("/threads")).json() == []


async def test_foreign_pages_may_not_read(api: Client) -> None:
    for lines in FOREIGN[:-1]:
        for method, target in (("GET", "/threads"), ("OPTIONS", "/messages")):
            answer = await ask(api, "Host: localhost", *lines, method=method, target=target)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


TWICE = [
    ["Origin: https://a", "Origin: http://localhost"],
    ["Sec-Fetch-Site: none"] * 2,
    ["Authorization: Bearer a", "Authorization: Bearer b"],
    ["Idempotency-Key: a", "Idempotency-Key: b"],
    ["Last-Event-ID: 1", "Last-Event-ID: 2"],
]


async def test_a_header_that_is_sent_twice_is_400(api: Client) -> None:
    for lines in TWICE:
        problem(await submit(api, JSON, *lines), 400, "more than once")


async def test_a_link_on_another_site_may_be_followed(api: Client) -> None:
    lines = ("Host: localhost", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    for target in ("/chat", "/docs", "/threads"):
        assert (await ask(api, *lines, target=target)).status_code == 200


async def test_a_method_is_not_overridden(api: Client) -> None:
    override = ("X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE")
    await api.submit("x", thread_id="t")
    assert (await ask(api, "Host: localhost", *override, target="/threads/t")).status_code == 200
    assert (await ask(api, "Host: localhost", *override, target="/threads/t?_method=DELETE")).status_code == 422
    assert (await api.get("/threads/t")).status_code == 200


MEDIA_TYPES: list[list[str]] = [
    *([], ["Content-Type:"], ["Content-Type: ;charset=utf-8"], ["Content-Type: text/plain"]),
    *(["Content-Type: TEXT/PLAIN; x=application/json"], ["Content-Type: application/x-www-form-urlencoded"]),
    *(["Content-Type: multipart/form-data; boundary=x"], ["Content-Type: application/xml"]),
]


async def test_a_body_that_a_page_may_send_without_asking_is_415(api: Client) -> None:
    for lines in MEDIA_TYPES:
        problem(await submit(api, *lines), 415, "application/json")
        head = "\r\n".join(["POST /messages HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", *lines])
        [answer] = await exchange(api, f"{head}\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n".encode())
        problem(answer, 415, "application/json")
        if lines != ["Content-Type: application/xml"]:  # a route without a body refuses it, too
            for target in ("/queues/default/pause", "/nope"):
                answer = await ask(api, "Host: localhost", *lines, body=BODY, target=target, method="POST")
                problem(answer, 415, "application/json")


async def test_a_request_without_a_body_needs_no_content_type(api: Client) -> None:
    for lines in ((), ("Content-Length: 0",), ("Content-Length: 0", "Content-Type: text/plain")):
        answer = await ask(api, "Host: localhost", *lines, target="/queues/default/pause", method="POST")
        assert answer.status_code == 200


def query(parameters: int, size: int) -> str:
    """So many parameters `a` with values, in so many bytes."""
    text = "&".join(["a=1"] * parameters)
    return text + "1" * (size - len(text))


LONG_QUERIES = [query(201, 1_000), query(1, 16_385), "&" * 60_000]


async def test_a_query_string_that_is_expensive_to_parse_is_414(start_api: StartApi) -> None:
    """Also for a route that needs a key, and for a path without a route: no layer has parsed it."""
    parsed = parse_query_string.cache_info().misses
    api = await start_api(**CLOSED)
    for target in ("/threads", "/messages", "/health", "/nope"):
        for text in LONG_QUERIES:
            problem(await ask(api, "Host: localhost", target=f"{target}?{text}"), 414, "16384 bytes", "200 parameters")
    for text in LONG_QUERIES:
        problem(await ask(api, "Host: localhost", JSON, target=f"/messages?{text}", body=BODY, method="POST"), 414)
    with pytest.raises(InvalidStatus) as refused:  # in a handshake a longer line is malformed
        async with open_socket(f"{chat_url(api, 't')}&{query(201, 1_000)}"):
            pass
    assert refused.value.response.status_code == 414
    assert parse_query_string.cache_info().misses == parsed


async def test_a_long_query_string_reaches_its_route(api: Client) -> None:
    for text in (query(200, 16_384), query(1, 16_384)):
        problem(await ask(api, "Host: localhost", target=f"/threads?{text}"), 422, "'a' is not a known query parameter")


FOREIGN_PAGES: list[Any] = ["null", "https://evil.example", "http://127.0.0.1:1", "http://localhost"]


async def test_a_socket_of_a_foreign_page_is_refused(api: Client) -> None:
    for origin in FOREIGN_PAGES:
        with pytest.raises(InvalidStatus) as refused:
            async with open_socket(chat_url(api, "t"), origin=origin):
                pass
        response = refused.value.response
        assert (response.status_code, response.headers["content-type"]) == (403, "application/problem+json")
        assert b"CORS_ORIGINS" in response.body


async def test_a_socket_of_an_own_page_opens(api: Client) -> None:
    async with open_socket(chat_url(api, "t"), origin=f"http://127.0.0.1:{api.base_url.port}") as chat:
        assert (await chat.frame())["status"] == "open"


async def test_a_socket_by_a_foreign_name_is_refused(api: Client) -> None:
    handshake = (
        "GET /ws/t HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    [answer] = await exchange(api, handshake.encode())
    problem(answer, 421, "ALLOWED_HOSTS")


async def test_pages_of_cors_origins_may_read_and_write(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    api = await start_api(cors_origins=(APP, "https://*.example.com"))
    for origin in (APP, "https://a.b.example.com"):
        answer = await submit(api, JSON, f"Origin: {origin}", "Sec-Fetch-Site: cross-site")
        assert answer.status_code == 202
        assert answer.headers["access-control-allow-origin"] == origin
        assert "Location" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        async with open_socket(chat_url(api, "t"), origin=origin) as chat:
            assert (await chat.frame())["status"] == "open"
    problem(await submit(api, JSON, "Origin: https://example.com"), 403, "CORS_ORIGINS")


async def test_a_page_of_cors_origins_can_read_every_refusal(start_api: StartApi) -> None:
    api = await start_api(cors_origins=(APP,))
    for lines, target, status in (([], "/nope", 404), (["Content-Type: text/plain"], "/messages", 415)):
        answer = await ask(
            api, "Host: localhost", f"Origin: {APP}", *lines, target=target, method="POST", body="{}" * len(lines)
        )
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)


async def test_a_preflight_names_the_methods_of_the_route(start_api: StartApi) -> None:
    api = await start_api(cors_origins=(APP,))
    asked = (f"Origin: {APP}", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
    for target, methods in (
        ("/messages", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/threads/t", {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"}),
    ):
        answer = await ask(api, "Host: localhost", *asked, method="OPTIONS", target=target)
        assert (answer.status_code, answer.content) == (204, b"")
        assert set(answer.headers["access-control-allow-methods"].split(", ")) == methods
        assert {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"} <= set(
            answer.headers["access-control-allow-headers"].split(", ")
        )
        assert answer.headers["vary"].endswith("Origin")
        assert int(answer.headers["access-control-max-age"]) > 0
    foreign = [line.replace("app.", "evil.") for line in asked]
    answer = await ask(api, "Host: localhost", *foreign, method="OPTIONS", target="/messages")
    problem(answer, 403, "CORS_ORIGINS")
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_a_preflight_needs_no_key(start_api: StartApi) -> None:
    api = await start_api(cors_origins=(APP,), **CLOSED)
    asked = (f"Origin: {APP}", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
    answer = await ask(api, "Host: localhost", *asked, method="OPTIONS", target="/messages")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, APP)
    refused = await submit(api, JSON, f"Origin: {APP}")
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == APP  # the page can read why
    assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]


async def test_answers_vary_by_origin_where_pages_are_allowed(start_api: StartApi) -> None:
    with_pages, without = await start_api(cors_origins=(APP,)), await start_api()
    assert (await with_pages.get("/threads")).headers["vary"] == "Origin"
    assert "vary" not in (await without.get("/threads")).headers


async def test_every_answer_has_headers_that_keep_it_to_itself(api: Client) -> None:
    for path in ("/threads", "/nope", "/health", "/openapi.json", "/docs", "/redoc", "/docs/swagger.js", "/chat"):
        headers = (await api.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert "script-src" not in headers["content-security-policy"], path
        assert len(headers.get_list("content-security-policy")) == len(headers.get_list("cache-control")) == 1, path
    for path in ("/docs", "/redoc", "/chat"):
        assert (await api.get(path)).headers["referrer-policy"] == "no-referrer"


async def test_x_forwarded_host_never_counts(start_api: StartApi) -> None:
    """A name that a proxy was asked by never counts: the proxy passes `Host` on."""
    for proxies in ((), ("127.0.0.0/8",)):
        api = await start_api(trusted_proxies=proxies)
        answer = await ask(api, "Host: evil.example", "X-Forwarded-Host: localhost")
        problem(answer, 421, "evil.example")
