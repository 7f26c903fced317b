"""The dashboard in a real browser, on what real workers do."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from service.agents.builtin.echo import echo
from service.config import Settings
from service.dashboard import routes
from tests.support.access import ROOT_KEY, bearer
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.programs import NODE_MODULES
from tests.support.requirements import require_or_skip
from tests.support.sql_client import SqlClient
from treadle import Context, Rejected, agent

BOARD = Path(routes.__file__).parent / "static/board"
AXE = NODE_MODULES / "axe-core/axe.min.js"
PHONE = {"width": 390, "height": 844}
GRAVE = ("serious", "critical")


@agent("flaky")
async def flaky(context: Context, text: str) -> str:
    """It fails for good until its second life."""
    if context.attempt == 1:
        raise Rejected(f"The rate limit is reached: try again in {len(text)} s.")
    return "At last."


async def open_view(browser: BrowserContext, port: int, view: str) -> Page:
    page = await browser.new_page()
    await page.goto(f"http://127.0.0.1:{port}/dashboard#{view}")
    return page


async def findings(page: Page, options: str = "{}") -> list[Any]:
    """What axe finds grave on the page as it is now."""
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found = await page.evaluate(f"axe.run({options})")
    return [(one["id"], one["nodes"][0]["html"]) for one in found["violations"] if one["impact"] in GRAVE]


async def test_a_failing_agent_is_found_explained_and_redriven(settings: Settings, start_worker: StartWorker) -> None:
    await start_worker(echo, flaky)
    async with (
        api_server(settings) as served,
        open_browser() as browser,
        Client(f"http://127.0.0.1:{served.port}") as api,
    ):
        page = await open_view(browser, served.port, "overview")
        # An empty system offers what to try, and it works.
        await page.get_by_role("button", name="Send a message to").click()
        await expect(page.locator(".title .badge")).to_have_text("completed")
        await expect(page.locator(".waterfall li")).not_to_have_count(0)
        await page.get_by_role("link", name="Overview").click()
        await expect(page.get_by_role("button", name="Make one fail")).to_be_visible()  # the others are still offered
        ids = [await api.submit("x" * number, agent="flaky", thread_id="t") for number in (5, 7, 9)]
        for message_id in ids:
            await api.settled(message_id, "failed")

        await page.goto(f"http://127.0.0.1:{served.port}/dashboard#messages?state=failed")
        await expect(page.locator("tbody tr")).to_have_count(3)
        await page.get_by_label("Text").fill("xxxxxxxxx")
        await page.get_by_role("button", name="Filter").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        assert "q=xxxxxxxxx" in page.url
        await page.locator("tbody a").first.click()
        await expect(page.locator(".why")).to_contain_text("The rate limit is reached: try again in 9 s.")
        await expect(page.locator("details pre").first).to_contain_text("Traceback")
        await page.locator("summary", has_text="Event log").click()
        await expect(page.locator(".events tbody tr")).to_have_count(3)
        await expect(page.locator(".events tbody tr").last).to_contain_text("The rate limit is reached")
        await page.get_by_role("button", name="Redrive").click()
        await expect(page.locator(".title .badge")).to_have_text("completed")
        await expect(page.locator(".events tbody tr")).to_have_count(6)

        # The errors differ in a number only: they are one group.
        await page.get_by_role("link", name="Dead letters").click()
        await expect(page.locator(".group")).to_have_count(1)
        await expect(page.locator("main")).to_contain_text("2 failed messages, 1 kind of error")
        await page.locator(".group summary").click()
        await page.get_by_role("button", name="Redrive these 2").click()
        await page.get_by_role("button", name="Redrive them").click()
        await expect(page.locator("main p[role=status]").first).to_have_text("2 messages are queued again.")
        for message_id in ids:
            await api.settled(message_id, "completed")
        await page.get_by_role("link", name="Overview").click()
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("button", name="Resume")).to_be_visible()  # the pause is committed
        await api.submit("waits")
        await expect(page.locator(".wrong")).to_contain_text("The queue default is paused, and 1 message waits in it.")
        await api.aclose()


async def test_a_busy_button_stays_busy_while_its_table_is_drawn_again(
    settings: Settings, start_worker: StartWorker
) -> None:
    await start_worker(echo)
    async with (
        api_server(settings) as served,
        open_browser() as browser,
        Client(f"http://127.0.0.1:{served.port}") as api,
    ):
        page = await open_view(browser, served.port, "overview")
        asked, let_go = [], asyncio.Event()

        async def hold(route: Route) -> None:
            asked.append(route.request.url)
            await let_go.wait()
            await route.continue_()

        await page.route("**/queues/default/pause", hold)
        button = page.get_by_role("button", name="Pause")
        await button.click()
        await expect(button).to_have_attribute("aria-disabled", "true")
        for _ in range(2):  # the first answer may have been on its way
            async with page.expect_response(lambda response: "/queues?" in response.url):
                await api.settled(await api.submit("x"))
        await expect(button).to_have_attribute("aria-disabled", "true")
        await button.click(force=True)
        let_go.set()
        await expect(page.get_by_role("button", name="Resume")).to_be_visible()
        assert len(asked) == 1


async def test_a_search_of_threads_says_how_far_it_looked(settings: Settings, sql_client: SqlClient) -> None:
    await sql_client.submit("find me", thread_id="oldest")
    await sql_client.submit_many(*[{"message": "x", "thread_id": f"t{number}"} for number in range(1000)])
    async with api_server(settings) as served, open_browser() as browser:
        page = await open_view(browser, served.port, "threads?q=find%20me")
        await expect(page.locator("main")).to_contain_text("None of the threads that were looked at has this text.")
        await expect(page.locator("main")).to_contain_text("Looked at the threads that have been active since")
        await page.get_by_role("button", name="Look further").click()
        await expect(page.get_by_role("link", name="oldest")).to_be_visible()
        await expect(page.get_by_role("button", name="Look further")).to_have_count(0)


async def test_each_view_has_no_grave_finding_and_fits_a_phone(settings: Settings, start_worker: StartWorker) -> None:
    axe = require_or_skip(AXE if AXE.exists() else None, "axe-core: make tools")
    assert axe
    await start_worker(echo, flaky)
    async with (
        api_server(settings) as served,
        open_browser(viewport=PHONE, bypass_csp=True) as browser,
        Client(f"http://127.0.0.1:{served.port}") as api,
    ):
        message_id = await api.submit("tell", thread_id="t", metadata={"customer": "7"})
        await api.settled(message_id)
        failed = await api.submit("fail", agent="flaky")
        await api.settled(failed)
        await api.put("/topics/plan.in", json={})
        await api.put("/subscriptions/planners", json={"topics": "plan.*", "agent": "echo"})
        await api.post("/webhooks", json={"url": "https://example.com/a/long/path/to/an/endpoint/of/another/service"})
        await api.aclose()
        views = {
            "overview": ".charts svg",
            "messages": "tbody tr",
            f"messages/{failed}": ".waterfall li",
            "dead-letters": ".group",
            "threads": "tbody tr",
            "threads/t": ".conversation li",
            "agents": ".card",
            "topics?topic=plan.in": "tbody tr",
            "webhooks": "tbody tr",
            "tenants": "tbody tr",
            "audit": ".view > div > p, tbody tr",
        }
        page = await open_view(browser, served.port, "overview")
        for view, shown in views.items():
            await page.goto(f"http://127.0.0.1:{served.port}/dashboard#{view}")
            await expect(page.locator(shown).first).to_be_visible()
            assert await findings(page) == [], view
            await page.emulate_media(color_scheme="dark")
            assert await findings(page, "{runOnly: ['color-contrast']}") == [], view
            await page.emulate_media(color_scheme="light")
            assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], view


async def test_a_key_is_asked_for_and_opens_what_its_scopes_allow(
    settings: Settings, start_worker: StartWorker
) -> None:
    await start_worker(echo, flaky)
    async with api_server(settings, auth="required", treadle_key=ROOT_KEY) as served, open_browser() as browser:
        async with Client(f"http://127.0.0.1:{served.port}") as api:
            api.headers.update(bearer(ROOT_KEY))
            await api.settled(await api.submit("x", agent="flaky"), "failed")
        page = await open_view(browser, served.port, "overview")
        await page.get_by_label("Key").fill("trd_wrong")
        await page.get_by_role("button", name="Use").click()
        await expect(page.get_by_role("alert")).to_have_text("The key is not valid.")
        await page.get_by_label("Key").fill(ROOT_KEY)
        await page.get_by_role("button", name="Use").click()
        await expect(page.get_by_role("heading", name="Queues")).to_be_visible()
        await expect(page.get_by_role("link", name="Audit")).to_be_visible()
        await page.get_by_role("link", name="Dead letters").click()
        await expect(page.get_by_role("button", name="Redrive it")).to_be_visible()
        await page.get_by_role("link", name="Tenants and keys").click()
        await page.get_by_label("Name of a new key").fill("reader")
        await page.get_by_label("submit").uncheck()
        await page.get_by_role("button", name="Create the key").click()
        key = await page.locator(".made code").text_content()
        await page.evaluate("sessionStorage.clear()")
        await page.reload()
        await page.get_by_label("Key").fill(str(key))
        await page.get_by_role("button", name="Use").click()
        await expect(page.get_by_role("heading", name="Messages")).to_be_visible()
        await expect(page.get_by_role("link", name="Audit")).to_have_count(0)
        await page.get_by_role("link", name="Dead letters").click()
        await expect(page.get_by_text("1 failed message")).to_be_visible()
        await expect(page.get_by_role("button", name="Redrive it")).to_have_count(0)  # it may only read


@pytest.mark.parametrize("name", sorted(path.name for path in BOARD.iterdir()))
def test_the_files_import_only_each_other_and_the_chat(name: str) -> None:
    text = (BOARD / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    for imported in re.findall(r'from "([^"]+)"', text):
        folder, file = (BOARD.parent, imported[8:]) if imported.startswith("../chat/") else (BOARD, imported[2:])
        assert (folder / file).is_file(), imported


async def test_the_page_is_served_at_dashboard_and_nothing_else_is(start_api: StartApi) -> None:
    api = await start_api()
    answers = await asyncio.gather(*(api.get(f"/dashboard/{path.name}") for path in BOARD.iterdir()))
    for answer in [await api.get("/dashboard"), *answers]:
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    slash = await api.get("/dashboard/")
    assert slash.next_request is not None
    assert slash.next_request.url.path == "/dashboard"
    assert (await api.get("/dashboard/no.js")).status_code == 404
