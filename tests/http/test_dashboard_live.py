"""The dashboard while work goes on: what makes it read again, what it costs, and that the keyboard keeps its place."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from playwright.async_api import BrowserContext, Page, Request, Route, expect

from bench import fill
from bench.clients.tabs import VIEWS
from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.fixture_types import RegisterAgents, StartWorker
from tests.support.waiting import until
from treadle import Context, Rejected, agent

PROBES = {
    "queues",
    "topics",
    "tenants",
    "keys",
    "audit?limit",
    "webhooks",
    "threads?limit",
    "instances?limit",
    "agents",
    "agents?limit",
}
STREAMS = 200


class Asked:
    """What pages of a browser ask of the service: paths with the names of their parameters."""

    def __init__(self, browser: BrowserContext) -> None:
        self.paths: list[str] = []
        self.answered: list[str] = []
        self.ended: list[str] = []
        browser.on("request", lambda request: self._note(self.paths, request))
        browser.on("response", lambda response: self._note(self.answered, response.request))
        for how in ("requestfinished", "requestfailed"):
            browser.on(how, lambda request: self._note(self.ended, request))

    def count(self, path: str) -> int:
        return self.paths.count(path)

    def has_all(self, path: str) -> bool:
        """Whether every such request has ended."""
        return self.count(path) == self.ended.count(path)

    @staticmethod
    def _note(paths: list[str], request: Request) -> None:
        if request.resource_type == "fetch":
            address = urlsplit(request.url)
            names = "&".join(name for name, _ in parse_qsl(address.query))
            paths.append(address.path.removeprefix("/") + (f"?{names}" if names else ""))


@agent("talker")
async def talker(context: Context, text: str) -> str:
    """Talks until its message is cancelled."""
    while True:
        await context.emit("word ")
        await asyncio.sleep(0.5)


@agent("typed")
async def typed(context: Context, given: dict[str, int]) -> str:
    return str(given)


@agent("own")
async def own(context: Context, text: str) -> str:
    return f"You said {text}"


@agent("picky")
async def picky(context: Context, text: str) -> str:
    """It fails for good until its second life."""
    if context.attempt == 1:
        raise Rejected(f"No room for {text}.")
    return "At last."


async def view(browser: BrowserContext, port: int, name: str) -> Page:
    page = await browser.new_page()
    await page.goto(f"http://127.0.0.1:{port}/dashboard#{name}")
    return page


@contextlib.asynccontextmanager
async def served(settings: Settings, **options: Any) -> AsyncIterator[tuple[int, BrowserContext, Client]]:
    async with (
        api_server(settings) as api,
        open_browser(**options) as browser,
        Client(f"http://127.0.0.1:{api.port}") as client,
    ):
        yield api.port, browser, client


async def test_a_list_reads_again_when_something_has_changed_and_else_rests(
    settings: Settings, register_agents: RegisterAgents
) -> None:
    """By the clock of the page, which stands still but where the test moves it."""
    await register_agents()
    async with served(settings) as (port, browser, client):
        asked = Asked(browser)
        await browser.clock.install()
        page = await view(browser, port, "messages")
        await expect(page.locator("main")).to_contain_text("No message satisfies this filter.")
        await until(lambda: "changes" in asked.answered)

        async def passes(seconds: int) -> None:
            for _ in range(seconds):
                await page.clock.run_for(1_000)
                await until(lambda: asked.has_all("messages?limit"))

        minute = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
        await page.clock.pause_at(minute)
        await passes(20)
        before = asked.count("messages?limit")
        await passes(60)
        assert asked.count("messages?limit") <= before + 5  # each 15 seconds, where it would be each 2
        before = asked.count("messages?limit")
        await client.submit("hello")
        await expect(page.locator("tbody tr")).to_have_count(1)  # by the hint: the clock stands still
        assert asked.count("messages?limit") <= before + 2


async def test_tabs_of_a_browser_share_a_stream(settings: Settings, register_agents: RegisterAgents) -> None:
    await register_agents()
    async with served(settings) as (port, browser, client):
        asked = Asked(browser)
        pages = [await view(browser, port, "messages")]
        await until(lambda: asked.count("changes"))  # before others can: the test closes this one
        pages += [await view(browser, port, "messages") for _ in range(2)]
        await client.submit("hello")
        for page in pages:
            await expect(page.locator("tbody tr")).to_have_count(1)
        assert asked.count("changes") == 1
        await pages[0].close()
        await until(lambda: asked.count("changes") == 2)  # another tab goes on
        await client.submit("hello again")
        await expect(pages[2].locator("tbody tr")).to_have_count(2)


async def test_the_keyboard_keeps_its_place_when_a_view_reads_again(
    settings: Settings, start_worker: StartWorker
) -> None:
    await start_worker(echo)
    async with served(settings) as (port, browser, client):
        page = await view(browser, port, "overview")
        await page.get_by_role("button", name="Pause").focus()
        await page.keyboard.press("Enter")
        focused = page.locator(":focus")
        await expect(focused).to_have_text("Resume")
        for number in range(2):
            await client.submit("waits")
            await expect(page.locator(".wrong")).to_contain_text(f"{number + 1} message")
            await expect(focused).to_have_text("Resume")
        await page.keyboard.press("Enter")
        await expect(focused).to_have_text("Pause")
        await page.goto(f"http://127.0.0.1:{port}/dashboard#messages")
        await expect(page.locator("#content")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(focused).to_have_attribute("id", "filter-state")
        await page.reload()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.keyboard.press("Tab")
        await expect(focused).to_have_text("Skip to the content")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(focused).to_have_attribute("id", "filter-state")


async def test_first_steps_work_with_the_agents_that_are_there(settings: Settings, start_worker: StartWorker) -> None:
    """No echo, and the agent that comes first takes no text."""
    await start_worker(typed, own)
    async with served(settings) as (port, browser, _):
        page = await view(browser, port, "overview")
        await page.get_by_role("button", name="Send a message to own").click()
        await expect(page.locator(".title .badge")).to_have_text("completed")
        await page.get_by_role("link", name="Overview").click()
        await page.get_by_role("button", name="Send one that waits a minute").click()
        await expect(page.locator(".why")).to_contain_text("It was submitted with a delay and is due")
        await page.get_by_role("button", name="Run now").click()
        await expect(page.locator(".title .badge")).to_have_text("completed")
        await page.get_by_role("link", name="Overview").click()
        await page.get_by_role("link", name="Open a chat").click()
        await expect(page).to_have_url(re.compile("/chat"))


async def test_all_dead_letters_are_redriven_or_those_until_a_person_stops_it(
    settings: Settings, start_worker: StartWorker
) -> None:
    await start_worker(picky)
    async with served(settings) as (port, browser, client):
        for text in ("a", "b", "c"):
            await client.settled(await client.submit(text, agent="picky"), "failed")
        page = await view(browser, port, "dead-letters")
        held = asyncio.Event()

        async def hold(route: Route) -> None:
            if '"preview":false' in (route.request.post_data or ""):
                await held.wait()
            await route.continue_()

        await page.route("**/messages/redrive", hold)
        await page.get_by_role("button", name="Redrive all 3").click()
        await expect(page.locator("#askText")).to_have_text("3 messages are queued again and run once more.")
        await page.get_by_role("button", name="Redrive them").click()
        await expect(page.locator("main")).to_contain_text("0 of 3")
        await page.get_by_role("button", name="Stop").click()
        held.set()
        said = page.locator("main p[role=status]").first
        await expect(said).to_have_text("3 messages are queued again; you stopped the rest.")
        await expect(page.locator("main")).to_contain_text("No message has failed for good.")


async def test_many_messages_and_live_streams_leave_it_usable(
    settings: Settings, start_worker: StartWorker, sql: Connection
) -> None:
    """10,000 messages, and 200 that stream to a client each: lists page, and a message shows what it says."""
    await sql.execute(fill.INSERT_FINISHED, 10_000, "hello")
    await start_worker(talker, worker_concurrency=STREAMS)
    async with served(settings) as (port, browser, client):
        asked = Asked(browser)
        talks = [{"message": f"talk {n}", "agent": "talker"} for n in range(STREAMS)]
        accepted = (await client.post("/messages/batch", json={"messages": talks})).json()["messages"]
        ids = [message["message_id"] for message in accepted]
        readers = [await asyncio.open_connection("127.0.0.1", port) for _ in ids]
        for message_id, (_, writer) in zip(ids, readers, strict=True):
            writer.write(f"GET /messages/{message_id}/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        for reader, _ in readers:
            await asyncio.wait_for(reader.readuntil(b"event: chunk"), 60)
        page = await view(browser, port, f"messages/{ids[0]}")
        await expect(page.locator(".stream")).to_contain_text("word word word")
        await page.goto(f"http://127.0.0.1:{port}/dashboard#messages")
        await expect(page.locator("tbody tr")).to_have_count(50)
        for shown in (100, 150, 200):
            await page.get_by_role("button", name="Show older ones").click()
            await expect(page.locator("tbody tr")).to_have_count(shown)
        asked.paths.clear()
        pages = {name: await view(browser, port, name) for name in VIEWS}
        for name, asks in VIEWS.items():
            wanted = {path.partition("=")[0] for path, _ in asks}
            await until(lambda wanted=wanted: wanted <= set(asked.paths))  # type: ignore[misc]
            await pages[name].close()
        assert set(asked.paths) - PROBES - {"changes"} == {
            path.partition("=")[0] for asks in VIEWS.values() for path, _ in asks
        }
        await client.post("/messages/cancel", json={"agent": "talker", "preview": False, "limit": 1000})
        for _, writer in readers:
            writer.close()
