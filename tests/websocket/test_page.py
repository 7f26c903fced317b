"""The chat page in a real browser: a person writes, watches, leaves, and finds everything again."""

import re
from typing import Any

import msgspec
from playwright.async_api import expect

from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.chat_page import ChatPage
from tests.support.fixture_types import RegisterAgents, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from treadle import Context, agent


async def newest_message(api: Client, count: int) -> str:
    """The id of the last message of the thread `tour`, once it has `count` messages."""

    async def messages() -> list[dict[str, str]]:
        response = await api.get("/threads/tour/messages")
        return list(response.json()["messages"]) if response.status_code == 200 else []

    return str((await until(messages, lambda found: len(found) == count))[-1]["message_id"])


async def test_a_person_leaves_in_the_middle_of_an_answer_and_finds_everything_again(
    settings: Settings, scripted_api: Client, script: ScriptedAgent
) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tour")
        await chat.screenshot("1-empty")
        await chat.send("hello from a browser")
        await expect(chat.answers).to_have_text(["hello from a browser"])
        await chat.has_states("done")
        phase, log = chat.page.locator("#phase"), chat.page.locator("#logLines")
        await expect(phase).to_have_text("refinement_ready")
        await expect(log).to_contain_text(re.compile(r"\[AGENT STREAM\] \d+ \S+ done {.*hello from a browser"))
        await chat.page.get_by_role("button", name="Disconnect").click()
        await chat.has_connection("Disconnected")
        await chat.choose_agent("script")
        await chat.send("a long story")
        await expect(phase).to_have_text("executing")
        await chat.page.get_by_role("button", name="Connect", exact=True).click()
        await chat.has_connection("Connected")
        message_id = await newest_message(scripted_api, 2)
        script.say(
            message_id,
            ("progress", {"percent": 40, "message": "reading"}),
            ("tool", {"name": "search", "query": "x"}),
        )
        await expect(chat.page.locator("progress")).to_have_js_property("value", 0.4)
        script.say(message_id, "Once upon", " a time")
        await expect(chat.answers).to_have_text(["hello from a browser", "Once upon a time"])
        await chat.has_states("done", "working")
        await expect(chat.exchanges.nth(1).locator(".steps b")).to_have_text("search")
        await chat.screenshot("2-working")
        await chat.close()

        script.say(message_id, RuntimeError("The pen broke."))  # the agent goes on without a reader
        await scripted_api.settled(message_id, "queued", "processing")
        script.say(message_id, "There was")
        chat = await ChatPage.open(browser, served.port, "tour")
        await expect(chat.answers).to_have_text(["hello from a browser", "There was"])  # only the new attempt's text
        await expect(chat.exchanges.nth(1).locator(".status p")).to_have_text("Working, attempt 2")
        script.say(message_id, " a chat.", None)
        await chat.has_states("done", "done")
        await expect(chat.answers).to_have_text(["hello from a browser", "There was a chat."])
        await expect(chat.page.locator(".request")).to_have_text(["hello from a browser", "a long story"])


async def test_a_message_is_cancelled_on_the_page(
    settings: Settings, scripted_api: Client, script: ScriptedAgent
) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tour")
        await chat.choose_agent("script")
        await chat.send("never mind")
        await chat.has_states("working")
        await chat.exchanges.locator(".status button").click()
        await chat.has_states("cancelled")
        await chat.screenshot("3-cancelled")


async def test_a_message_written_while_the_service_is_away_is_sent_after_a_reload(
    settings: Settings, api_with_worker: Client
) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tour")
        await expect(chat.page.locator("#agent option")).to_have_count(1)
        await served.stop()
        await expect(chat.page.locator("#connection")).to_have_attribute("data-state", "lost")
        await chat.send("are you there")
        await chat.has_states("sending")
        await chat.screenshot("4-lost")
        await chat.close()
        await served.start()
        chat = await ChatPage.open(browser, served.port, "tour")
        await chat.has_states("done")
        await expect(chat.answers).to_have_text(["are you there"])
        assert await chat.page.evaluate(PENDING) == []
    await newest_message(api_with_worker, 1)


PENDING = "Object.keys(localStorage).filter((name) => name.startsWith('treadle.pending.'))"


async def test_two_tabs_keep_each_others_unsent_messages(settings: Settings, api_with_worker: Client) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        tabs = [await ChatPage.open(browser, served.port, "tour") for _ in range(2)]
        await served.stop()
        for number, tab in enumerate(tabs):
            await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "lost")
            await tab.send(f"from tab {number}")
            await tab.has_states("sending")
        for tab in tabs:
            await tab.close()
        await served.start()
        chat = await ChatPage.open(browser, served.port, "tour")
        await chat.has_states("done", "done")
        await expect(chat.answers).to_have_text(["from tab 0", "from tab 1"])
        assert await chat.page.evaluate(PENDING) == []
    await newest_message(api_with_worker, 2)


async def test_a_message_that_the_server_cannot_read_is_refused_once(
    settings: Settings, start_worker: StartWorker
) -> None:
    @agent("objects")
    async def objects(context: Context, message: dict[str, Any]) -> str:
        return "taken"

    await start_worker(objects)
    deep = "[" * 500 + "]" * 500
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tour")
        await expect(chat.hint).to_have_text("This agent takes a JSON object.")
        for refused in (f'{{"deep": {deep}}}', '{"half": "\\ud800"}'):
            await chat.send(refused)
            await expect(chat.exchanges.last).to_have_attribute("data-state", "refused")
        await chat.send('{"fine": 1}')
        await chat.has_states("done", "refused", "refused")
        assert await chat.page.evaluate(PENDING) == []


async def test_the_page_fits_a_phone_and_shows_markup_as_text(settings: Settings, start_worker: StartWorker) -> None:
    @agent("table")
    async def table(context: Context, text: str) -> str:
        for number in range(3):
            await context.event("progress", {"done": number + 1, "total": 4})
            await context.event("tool", {"name": f"look {number}", "input": {"rows": [number] * 20}})
        await context.emit("a" * 200 + f" {text}")
        return "b" * 200

    await start_worker(echo, table)
    phone = {"viewport": {"width": 375, "height": 667}, "device_scale_factor": 2, "is_mobile": True}
    async with api_server(settings) as served, open_browser(**phone, color_scheme="dark") as browser:
        chat = await ChatPage.open(browser, served.port, "long" * 30)
        await chat.choose_agent("table")
        markup = "<img src=x onerror=document.title='gotcha'>"
        await chat.send(markup)
        await chat.has_states("done")
        await expect(chat.page.locator(".request")).to_have_text(markup)
        await expect(chat.page.locator("#exchanges img")).to_have_count(0)
        assert await chat.page.title() != "gotcha"
        assert await chat.page.evaluate("document.documentElement.scrollWidth") <= 375
        unlabelled = "(fields) => fields.filter((field) => !field.labels.length).length"
        assert await chat.page.locator("input, select, textarea").evaluate_all(unlabelled) == 0
        await chat.screenshot("5-phone")


class Wish(msgspec.Struct):
    wish: str


async def test_an_agent_that_takes_only_objects_is_sent_json(settings: Settings, start_worker: StartWorker) -> None:
    """An agent that also takes text is sent text."""

    @agent("either")
    async def either(context: Context, message: str | Wish) -> str:
        return f"either {message}"

    @agent("objects")
    async def objects(context: Context, message: Wish) -> str:
        return f"object {message.wish}"

    await start_worker(either, objects)
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tour")
        await chat.choose_agent("either")
        await chat.send("a wish")
        await expect(chat.results).to_have_text(["either a wish"])
        await chat.choose_agent("objects")
        await expect(chat.hint).to_have_text("This agent takes a JSON object.")
        await chat.send("no object")
        await expect(chat.page.locator("#notice")).to_contain_text("This agent takes a JSON object: ")
        await chat.send('{"wish": "a bike"}')
        await expect(chat.results).to_have_text(["either a wish", "object a bike"])


async def test_each_of_many_agents_can_be_chosen(
    settings: Settings, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents()
    await sql.execute(
        "insert into treadle.agents (agent, queue, timeout_seconds, max_attempts, description, registered_at)"
        " select 'n' || n, 'default', 1, 1, '', now() from generate_series(1, 1100) n"
    )
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tour")
        await expect(chat.page.locator("#agent option")).to_have_count(1101)
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{served.port}/dashboard#messages")
        await expect(page.locator("#agent-names option")).to_have_count(1101)
