"""A tenant's limits over HTTP: 429 with its headers, and GET /tenant."""

import json
import time

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.cli_runner import Cli


async def test_a_submit_beyond_a_limit_is_refused_with_its_headers(api: Client, sql: Connection) -> None:
    await sql.execute("select treadle.limit_tenant('default', $1)", json.dumps({"per_minute": 2}))
    began = time.monotonic()
    for _ in range(2):
        assert (await api.post("/messages", json={"message": "x"})).status_code == 202
    refused = await api.post("/messages", json={"message": "x"})
    assert (refused.status_code, refused.json()["title"]) == (429, "Tenant limit reached")
    assert 30 - (time.monotonic() - began) <= int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["RateLimit-Policy"] == '"tenant";q=2;w=60'
    assert refused.headers["RateLimit"] == f'"tenant";r=0;t={refused.headers["Retry-After"]}'
    batch = await api.post("/messages/batch", json={"messages": [{"message": "x"}]})
    assert (batch.status_code, "RateLimit" in batch.headers) == (429, True)
    batch = await api.post("/messages/batch", json={"messages": [{"message": "x"}] * 3})
    assert (batch.status_code, "Retry-After" in batch.headers) == (422, False)
    found = (await api.get("/tenant")).json()
    assert (found["submits_left"], found["per_minute"], found["queued"]) == (0, 2, 2)


async def test_the_command_line_limits_a_tenant(cli: Cli) -> None:
    printed = await cli("tenants", "limit", "default", "--queued", "7", "--running", "3", "--per-minute", "60")
    assert "max_queued       7\n" in printed.output
    assert "max_running      3\n" in printed.output
    assert "submits_left     60\n" in printed.output
    assert "max_queued       -\n" in (await cli("tenants", "limit", "default", "--reset")).output
    assert (await cli("tenants", "limit", "nowhere", "--queued", "1")).exit_code == 1
