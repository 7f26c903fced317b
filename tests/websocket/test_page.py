"""The page service/dashboard/static, in a real browser: to talk, to watch, to go away and to find everything again."""

import msgspec
import pytest

from service.agents.builtin.echo import echo
from service.config import Settings
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.chat_page import CONNECTION, choose_agent, save_screenshot
from tests.support.fixture_types import StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from treadle import Context, agent

ANSWERS = "[...document.querySelectorAll('.turn')].map((turn) => turn.querySelector('.answer').textContent)"
STATES = "[...document.querySelectorAll('.turn')].map((turn) => turn.dataset.state)"


async def newest(api: Client, count: int) -> str:
    """The id of the last message of the thread, which has so many."""
    answer = await until(lambda: api.get("/threads/tour/messages"), lambda answer: answer.status_code == 200)
    page = await until(
        lambda: api.get("/threads/tour/messages"), lambda answer: answer.json()["total_messages"] == count
    )
    assert answer.status_code == 200
    return str(page.json()["messages"][-1]["message_id"])


async def test_a_person_talks_leaves_and_finds_everything(
    settings: Settings, scripted_api: Client, script: ScriptedAgent
) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        page = f"http://127.0.0.1:{served.port}/chat#tour"
        async with browser.open(page) as tab:
            await tab.until(CONNECTION, "Connected")
            await save_screenshot(tab, "1-empty")
            await tab.type("hello from a browser")
            await tab.until(ANSWERS, ["hello from a browser"])
            await tab.until(STATES, ["done"])

            await choose_agent(tab, "script")
            await tab.type("a long story")
            message_id = await newest(scripted_api, 2)
            script.say(
                message_id,
                ("progress", {"percent": 40, "message": "reading"}),
                ("tool", {"name": "search", "query": "x"}),
            )
            await tab.until("document.querySelector('progress')?.value", 0.4)
            script.say(message_id, "Once upon", " a time")
            await tab.until(ANSWERS, ["hello from a browser", "Once upon a time"])
            await tab.until(STATES, ["done", "working"])
            assert (
                await tab.ask("document.querySelectorAll('.turn')[1].querySelector('.steps b').textContent") == "search"
            )
            await save_screenshot(tab, "2-working")
            await tab.close()  # in the middle of the answer

        script.say(message_id, RuntimeError("The pen broke."))  # nobody looks, and nothing stops
        await scripted_api.settled(message_id, "queued", "processing")
        script.say(message_id, "There was")
        async with browser.open(page) as tab:
            await tab.until(ANSWERS, ["hello from a browser", "There was"])  # of the new attempt alone
            await tab.until("document.querySelectorAll('.state p')[1].textContent", "Working, attempt 2")
            script.say(message_id, " a chat.", None)
            await tab.until(STATES, ["done", "done"])
            await tab.until(ANSWERS, ["hello from a browser", "There was a chat."])
            assert await tab.ask("[...document.querySelectorAll('.asked')].map((asked) => asked.textContent)") == [
                "hello from a browser",
                "a long story",
            ]

            await tab.ask("document.querySelector('#text').focus()")
            await tab.type("never mind")
            await newest(scripted_api, 3)
            await tab.until(STATES, ["done", "done", "working"])
            await tab.ask("document.querySelectorAll('.state button')[2].click()")
            await tab.until(STATES, ["done", "done", "cancelled"])
            await save_screenshot(tab, "3-back")

            # The service goes away. What is said meanwhile waits, also through a reload of the page.
            await served.stop()
            await tab.until("document.querySelector('#connection').dataset.state", "lost")
            await choose_agent(tab, "echo")
            await tab.type("are you there")
            await tab.until(STATES, ["done", "done", "cancelled", "sending"])
            await save_screenshot(tab, "4-lost")
            await tab.close()
        await served.start()
        async with browser.open(page) as tab:
            await tab.until(STATES, ["done", "done", "cancelled", "done"])
            await tab.until(f"{ANSWERS}[3]", "are you there")
            assert await tab.ask("localStorage.getItem('treadle.pending.tour')") == "null"
        assert len((await scripted_api.get("/threads/tour/messages")).json()["messages"]) == 4


async def test_the_page_fits_a_telephone_and_shows_what_it_gets_as_text(
    settings: Settings, start_worker: StartWorker
) -> None:
    @agent("table")
    async def table(context: Context, text: str) -> str:
        for number in range(3):
            await context.event("progress", {"done": number + 1, "total": 4})
            await context.event("tool", {"name": f"look {number}", "input": {"rows": [number] * 20}})
        await context.emit("a" * 200 + f" {text}")
        return "b" * 200

    await start_worker(echo, table)
    async with api_server(settings) as served, open_browser() as browser, browser.open("about:blank") as tab:
        await tab.call("Emulation.setDeviceMetricsOverride", width=375, height=667, deviceScaleFactor=2, mobile=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        await tab.call("Emulation.setEmulatedMedia", features=[scheme])
        await tab.call("Page.navigate", url=f"http://127.0.0.1:{served.port}/chat#{'long' * 30}")
        await tab.until(f"document.readyState == 'complete' && {CONNECTION}", "Connected")
        await choose_agent(tab, "table")
        await tab.type("<img src=x onerror=document.title='gotcha'>")
        await tab.until(STATES, ["done"])
        assert await tab.ask("document.querySelectorAll('#turns img').length") == 0
        assert await tab.ask("document.title") != "gotcha"
        assert await tab.ask("document.querySelector('.asked').textContent.slice(0, 4)") == "<img"
        assert await tab.ask("document.documentElement.scrollWidth") <= 375
        unnamed = "[...document.querySelectorAll('input, select, textarea')].filter((one) => !one.labels.length).length"
        assert await tab.ask(unnamed) == 0
        await save_screenshot(tab, "5-telephone")


class Wish(msgspec.Struct):
    wish: str


async def test_who_takes_a_text_is_sent_a_text(settings: Settings, start_worker: StartWorker) -> None:
    """Also where objects are taken, too; who takes nothing else is sent what is written as JSON."""

    @agent("either")
    async def either(context: Context, message: str | Wish) -> str:
        return f"either {message}"

    @agent("objects")
    async def objects(context: Context, message: Wish) -> str:
        return f"object {message.wish}"

    await start_worker(either, objects)
    results = ANSWERS.replace(".answer", ".result")
    async with (
        api_server(settings) as served,
        open_browser() as browser,
        browser.open(f"http://127.0.0.1:{served.port}/chat#tour") as tab,
    ):
        await tab.until(CONNECTION, "Connected")
        await choose_agent(tab, "either")
        await tab.type("a wish")
        await tab.until(results, ["either a wish"])
        await choose_agent(tab, "objects")
        await tab.until("document.querySelector('#hint').textContent", "This agent takes an object: write JSON.")
        await tab.type('{"wish": "a bike"}')
        await tab.until(results, ["either a wish", "object a bike"])


@pytest.mark.parametrize(
    "name", ["page.js", "chat.js", "turn.js", "plan.js", "question.js", "markdown.js", "make.js", "chat.css"]
)
async def test_the_files_of_the_page_are_served(api: Client, name: str) -> None:
    page = await api.get("/chat")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert (await api.get(f"/chat/{name}")).status_code == 200
    slash = await api.get("/chat/")
    assert slash.next_request is not None
    assert slash.next_request.url.path == "/chat"
    assert (await api.get("/chat/no.js")).status_code == 404
    assert (await api.get("/chat/..%2Fchat.js")).status_code == 404
