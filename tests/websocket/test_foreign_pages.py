"""Web pages of another origin in a real browser: without a setting they can neither read nor write; with CORS_ORIGINS
they submit, stream and chat."""

import contextlib
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page

from service.config import Settings
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_token
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.fixture_types import StartWorker
from tests.support.foreign_page import foreign_page


async def visit(browser: BrowserContext, url: str) -> Page:
    page = await browser.new_page()
    await page.goto(url)
    return page


async def attempt(page: Page, call: str, *arguments: Any) -> Any:
    return await page.evaluate(f"arguments => {call}(...arguments)", list(arguments))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another site", "the same host, another port"])
async def test_without_a_setting_a_foreign_page_can_neither_read_nor_write(
    settings: Settings, api: Client, host: str
) -> None:
    message_id = await api.submit("secret", thread_id="t")
    async with api_server(settings) as served, foreign_page() as port, open_browser() as browser:
        page = await visit(browser, f"http://{host}:{port}/")
        url = f"http://127.0.0.1:{served.port}"
        refused = "refused: TypeError"
        assert await attempt(page, "submit", url, "x") == refused
        for kind in ("text/plain", "application/json"):
            options = {"mode": "no-cors", "headers": {"Content-Type": kind}}
            await attempt(page, "submit", url, "x", options)  # the page is not told how it ended
        for enctype in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            await attempt(page, "submitForm", url, enctype)
        for path in ("/threads", "/threads/t", f"/messages/{message_id}/status", "/openapi.json", "/health"):
            assert await attempt(page, "read", url, path) == refused
            assert await attempt(page, "read", url, path, {"mode": "no-cors"}) == refused
            assert await attempt(page, "read", url, path, {"credentials": "include"}) == refused
        for path in ("/queues/default/pause", f"/messages/{message_id}/cancel"):
            await attempt(page, "read", url, path, {"mode": "no-cors", "method": "POST"})
        for path in (f"/messages/{message_id}/stream", "/threads/t/stream"):
            assert await attempt(page, "eventSource", url, path) == ["refused"]
        assert await attempt(page, "embed", url, "script", "/threads") == "refused"
        assert await attempt(page, "embed", url, "img", "/threads/t/stream") == "refused"
        assert await attempt(page, "chat", f"ws://127.0.0.1:{served.port}/ws/t", "x") == ["closed 1006"]
        await attempt(page, "embed", url, "iframe", "/chat")
        assert not page.frames[-1].url.endswith("/chat")
        rebound = await visit(browser, f"http://rebound.localhost:{served.port}/chat")
        assert "ALLOWED_HOSTS" in await rebound.inner_text("body")
    threads = (await api.get("/threads")).json()
    assert [thread["message_count"] for thread in threads] == [1]
    assert not (await api.get("/queues/default")).json()["paused"]
    assert (await api.status(message_id))["state"] == "queued"


@pytest.mark.parametrize("closed", [False, True], ids=["AUTH=off", "with an access token"])
async def test_a_page_of_cors_origins_submits_streams_and_chats(
    settings: Settings, start_worker: StartWorker, closed: bool
) -> None:
    await start_worker()
    async with contextlib.AsyncExitStack() as stack:
        port, other_port = [await stack.enter_async_context(foreign_page()) for _ in range(2)]
        browser = await stack.enter_async_context(open_browser())
        changes: dict[str, Any] = {"cors_origins": (f"http://localhost:{port}",), **(CLOSED if closed else {})}
        served = await stack.enter_async_context(api_server(settings, **changes))
        page = await visit(browser, f"http://localhost:{port}/")
        url = f"http://127.0.0.1:{served.port}"
        api = await stack.enter_async_context(Client(url))
        token = await create_token(api, ROOT_KEY, "submit", "read", subject="u", expires_in=600) if closed else ""
        header, query = (bearer(token), f"token={token}") if closed else ({}, "")
        options = {"headers": {"Content-Type": "application/json", **header}}

        accepted = await attempt(page, "submit", url, "one two", options)
        assert accepted["status"] == 202
        stream = f"/messages/{accepted['body']['message_id']}/stream"
        assert accepted["location"] == stream.replace("stream", "status")
        seen = await attempt(page, "eventSource", url, f"{stream}?{query}")
        assert (seen[0], seen[-2], "chunk" in seen) == ("open", "done", True)
        again = await attempt(page, "fetchStream", url, stream, "1", header)
        assert (again[-1], "queued" in again) == ("done", False)
        socket = f"ws://127.0.0.1:{served.port}/ws/chat?thread_id=t&{query}"
        frames = await attempt(page, "chat", socket, "three four")
        assert (frames[0], frames[-2], "chunk" in frames) == ("open", "done", True)
        assert "There is no route" in await attempt(page, "read", url, "/nope")  # it can read a refusal
        if closed:
            assert "Send a key or an access token" in await attempt(page, "read", url, "/threads")

        other = await visit(browser, f"http://localhost:{other_port}/")
        assert await attempt(other, "submit", url, "x", options) == "refused: TypeError"
        assert await attempt(other, "read", url, "/threads", {"headers": header}) == "refused: TypeError"
