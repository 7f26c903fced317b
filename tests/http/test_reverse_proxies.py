"""The examples of nginx and Caddy as proxies, with the real programs: streams arrive at once, sockets open, and names
and addresses hold."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from service.agents.builtin.echo import echo
from service.config import Settings
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.fixture_types import StartWorker
from tests.support.reverse_proxies import ACCESS_LOG, NAME, ReverseProxy, caddy_before, nginx_before
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import open_stream, stream_path, types
from tests.support.waiting import until
from tests.support.websocket_client import open_socket

PROXIES = {"nginx": nginx_before, "caddy": caddy_before}


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> ReverseProxy:
    return PROXIES[request.param]


@contextlib.asynccontextmanager
async def proxied(proxy: ReverseProxy, settings: Settings, folder: Path, **changes: Any) -> AsyncIterator[Client]:
    """A client of the proxy, with the name of the example."""
    changes = {"allowed_hosts": (NAME,), "trusted_proxies": ("127.0.0.1",), **changes}
    async with api_server(settings, **changes) as api, proxy(api.port, folder) as port, _client(port) as client:
        client.headers["Host"] = f"{NAME}:{port}"
        yield client


def _client(port: int) -> Client:
    return Client(f"https://127.0.0.1:{port}")


def socket_options(client: Client, **more: Any) -> dict[str, Any]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return {"host": "127.0.0.1", "port": client.base_url.port, "ssl": context, **more}


async def test_streams_and_sockets_pass_at_once(
    proxy: ReverseProxy, settings: Settings, start_worker: StartWorker, script: ScriptedAgent, tmp_path: Path
) -> None:
    await start_worker(echo, script.agent)
    async with proxied(proxy, settings, tmp_path) as client:
        message_id = await client.submit("go", agent="script", thread_id="t")
        async with open_stream(client, f"{stream_path(message_id)}?token=trd_secret") as stream:
            await stream.until("started")
            script.say(message_id, "first")
            await stream.until("chunk")  # while the answer goes on
            script.say(message_id, "last", None)
            assert types(await stream.rest())[-1] == "done"
        origin = f"https://{NAME}:{client.base_url.port}"
        url = f"wss://{NAME}:{client.base_url.port}/ws/u?token=trd_secret"
        async with open_socket(url, origin=origin, **socket_options(client)) as chat:
            assert (await chat.frame())["status"] == "open"
            await chat.send("user_input", text="hello")
            await chat.until(event="done")
        log = tmp_path / ACCESS_LOG
        for path in (stream_path(message_id), "/ws/u"):
            await until(lambda path=path: path in log.read_text())  # type: ignore[misc]
        assert "trd_secret" not in log.read_text()


async def test_names_and_origins_hold(proxy: ReverseProxy, settings: Settings, tmp_path: Path) -> None:
    async with proxied(proxy, settings, tmp_path) as client:
        own = f"https://{NAME}:{client.base_url.port}"
        accepted = await client.get("/threads", headers={"Origin": own, "Sec-Fetch-Site": "same-origin"})
        assert accepted.status_code == 200
        assert accepted.headers["strict-transport-security"]
        for headers in ({"Origin": "https://evil.example"}, {"Origin": f"https://{NAME}"}):
            problem(await client.get("/threads", headers=headers), 403, "CORS_ORIGINS")
        foreign = await client.get("/threads", headers={"Host": "evil.example"})
        if proxy is caddy_before:
            assert foreign.content == b""  # Caddy has no site of this name, and asks nothing of the API
        else:
            problem(foreign, 421, "ALLOWED_HOSTS")
        url = f"wss://{NAME}:{client.base_url.port}/ws/u"
        with pytest.raises(InvalidStatus) as refused:
            async with open_socket(url, origin="https://evil.example", **socket_options(client)):
                pass
        assert refused.value.response.status_code == 403


async def test_a_client_cannot_choose_its_address(
    proxy: ReverseProxy, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client_limits.PAUSE_SECONDS", 0.0)
    async with proxied(proxy, settings, tmp_path, client_requests_per_second=0.01) as client:
        headers = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(12)]
        assert 429 in [(await client.get("/threads", headers=header)).status_code for header in headers]
