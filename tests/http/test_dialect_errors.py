"""Refusals that no route makes have the shape of the dialect whose address was asked."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api_client import Client

Read = Callable[[Any], Any]

CODES = {
    400: "invalid_value",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    414: "query_too_long",
    415: "wrong_media_type",
}


@pytest.mark.parametrize(
    ("prefix", "route", "read", "codes"),
    [
        ("/v1", "/responses", lambda body: body["error"]["code"], CODES),
        ("/langgraph", "/threads/search", lambda body: bool(body["detail"]), dict.fromkeys(CODES, True)),
        ("/schema-registry", "/subjects/x/versions", lambda body: body["error_code"], {code: code for code in CODES}),
        ("/a2a", "/echo", lambda body: body["error"]["code"], {code: code for code in CODES}),
    ],
)
async def test_a_refusal_has_the_shape_of_its_dialect(
    start_api: Any, prefix: str, route: str, read: Read, codes: dict[int, Any]
) -> None:
    api: Client = await start_api(max_body_bytes=1_000)
    json = {"Content-Type": "application/json"}
    for method, path, status, headers, body in (
        ("GET", "/no/such/route/anywhere/here", 404, {}, b""),
        ("PATCH", route, 405, json, b"{}"),
        ("GET", f"{route}?{'a=1&' * 200}", 414, {}, b""),
        ("POST", route, 415, {"Content-Type": "text/plain"}, b"x"),
        ("POST", route, 415, {}, b"x"),
        ("POST", route, 413, json, b'"' + b"x" * 1_000 + b'"'),
    ):
        answer = await api.request(method, f"{prefix}{path}", content=body, headers=headers)
        assert (answer.status_code, read(answer.json())) == (status, codes[status]), (method, path)
        if status == 405:
            assert "POST" in answer.headers["allow"]
        if prefix == "/v1":  # else the SDKs would repeat some of them
            assert answer.headers["x-should-retry"] == "false"
    if prefix != "/a2a":  # where the body is one of JSON-RPC
        missing = await api.post(f"{prefix}{route}", content=b"", headers=json)
        assert (missing.status_code, "no body" in missing.text, "type" in missing.json()) == (400, True, False)
