"""A team at work in the browser's page: the plan and its tasks as they go, the clarifier beside it, a refinement, and
everything again for who comes back; and an agent that asks a person."""

import json

from service.agents.resolver.scripted import PLAINLY
from service.config import Settings
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.chat_page import CONNECTION, choose_agent, save_screenshot
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_model import ScriptedModel
from treadle import Context, agent

TASKS = """[...document.querySelectorAll('#turns > .turn:last-child .task')].map((task) =>
    [task.querySelector('b').textContent, task.dataset.state])"""
STAGE = "document.querySelector('#turns > .turn:last-child .stage')?.textContent"
STATES = "[...document.querySelectorAll('#turns > .turn')].map((turn) => turn.dataset.state)"
ASIDES = """[...document.querySelectorAll('.asides > .turn')].map((turn) => [turn.querySelector('.asked').textContent,
    turn.querySelector('.agent').textContent, turn.dataset.state])"""
PLAIN = PLAINLY.replace("`", "")
EVERYTHING = "[...document.querySelectorAll('#turns > .turn')].map((turn) => [turn.dataset.state, turn.textContent])"
QUERY = "Describe how tea is made. Describe how coffee is made. Then compare them."


def states(*found: str) -> list[list[str]]:
    titles = ("Describe how tea is made", "Describe how coffee is made", "Then compare them")
    return [list(pair) for pair in zip(titles, found, strict=True)]


async def test_a_team_is_seen_at_work(settings: Settings, resolver_api: Client, model: ScriptedModel) -> None:
    model.hold("task t2", "task t3", "aggregator")
    async with api_server(settings) as served, open_browser() as browser:
        page = f"http://127.0.0.1:{served.port}/chat#tea"
        async with browser.open(page) as tab:
            await tab.until(CONNECTION, "Connected")
            await tab.until("document.querySelector('#offer').hidden", False)
            await save_screenshot(tab, "6-offer")
            await tab.ask("document.querySelector('#offer').click()")
            assert await tab.ask("document.querySelector('#text').value") == QUERY
            await tab.type("")
            await tab.until(TASKS, states("done", "started", "waiting"))
            assert await tab.ask(STAGE) == "Working: 1 of 3 tasks done"
            assert "after Describe how tea is made" in await tab.ask("document.querySelector('.needs').textContent")

            await tab.until(
                "document.querySelector('#hint').textContent", "clarifier answers while resolver is at work."
            )
            await tab.type("What about the tea?")
            await tab.until(ASIDES, [["What about the tea?", "clarifier", "done"]])
            said = "document.querySelector('.aside .answer').textContent"
            for part in ("1 of 3 tasks are finished", "Of “Describe how tea is made” it is known:", PLAIN):
                await tab.until(f"{said}.includes({json.dumps(part)})")
            assert await tab.ask(STATES) == ["working"]
            await save_screenshot(tab, "7-team")

            await tab.ask("document.querySelector('#later').click()")
            await tab.type("The coffee should be decaffeinated")  # in its turn
            await tab.until(STATES, ["working", "waiting"])
            await tab.close()

        model.let_go("task t2", "task t3")
        await model.holds("aggregator")
        async with browser.open(page) as tab:
            await tab.until(STATES, ["working", "waiting"])
            await tab.until(ASIDES, [["What about the tea?", "clarifier", "done"]])
            first = "document.querySelector('#turns > .turn')"
            await tab.until(f"{first}.querySelector('.stage').textContent", "Writing the answer: 3 of 3 tasks done")
            model.let_go("aggregator")
            await tab.until(STATES, ["done", "done"])
            await tab.until(f"{first}.querySelector('.answer h5')?.textContent", "Describe how tea is made")
            await tab.until(TASKS, states("kept", "done", "done"))
            assert await tab.ask(STAGE) == "Plan: 3 of 3 tasks done, 1 kept from before"
            last = "document.querySelector('#turns > .turn:last-child .answer').textContent"
            await tab.until(f"{last}.includes('The instruction was: Then compare them')")
            await save_screenshot(tab, "8-refined")
            whole = await tab.ask(EVERYTHING)
        assert model.asked.count("task t1") == 1
        async with browser.open(page) as tab:
            await tab.until(EVERYTHING, whole)


async def test_a_retry_begins_its_text_anew_and_keeps_what_is_finished(
    settings: Settings, resolver_api: Client, model: ScriptedModel
) -> None:
    model.fail("task t3", ConnectionError("The line is down."))
    async with api_server(settings) as served, open_browser() as browser, browser.open("about:blank") as tab:
        await tab.call("Page.navigate", url=f"http://127.0.0.1:{served.port}/chat#tea")
        await tab.until(CONNECTION, "Connected")
        await choose_agent(tab, "resolver")
        await tab.type(QUERY)
        await tab.until(STATES, ["done"])
        await tab.until(TASKS, states("done", "done", "done"))
        # Also of those that the first attempt finished:
        assert await tab.ask("document.querySelectorAll('.task details').length") == 3
        assert await tab.ask("document.querySelectorAll('.answer.result:not(:empty)').length") == 0


async def test_an_agent_asks_a_person(settings: Settings, start_worker: StartWorker, start_api: StartApi) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> str:
        await context.emit("Let me see. ")
        colour = await context.input("Which colour do you want?")
        await context.emit(f"A {colour} one.")
        return f"Let me see. A {colour} one."

    await start_worker(asks)
    async with api_server(settings) as served, open_browser() as browser:
        async with browser.open(f"http://127.0.0.1:{served.port}/chat#asks") as tab:
            await tab.until(CONNECTION, "Connected")
            await choose_agent(tab, "asks")
            await tab.type("a bicycle")
            await tab.until(STATES, ["parked"])
            asked = "document.querySelector('.question:not([hidden]) label')?.textContent"
            await tab.until(asked, "Which colour do you want?")
            await save_screenshot(tab, "9-question")
            await tab.close()
        async with browser.open(f"http://127.0.0.1:{served.port}/chat#asks") as tab:
            await tab.until(asked, "Which colour do you want?")
            await tab.ask("document.querySelector('.question input').value = 'red'")
            await tab.ask("document.querySelector('.question button').click()")
            await tab.until(STATES, ["done"])
            await tab.until("document.querySelector('.answer').textContent", "Let me see. A red one.")
            assert await tab.ask("document.querySelector('.question').hidden")


MARKDOWN = """# Title

Some *em*, **strong**, `code *x*`, [a link](https://example.org/a_b) and [none](javascript:alert(1)).
Second line, 2 * 3 * 4 and snake_case_name.

- one
- two **bold**
  - inner

1. first
2. second

> quoted
> more

```python
# not a heading

x = "<b>"
```

| a | b |
| --- | --- |
| 1 | `2` |

---
<img src=x onerror=alert(1)>"""


async def test_markdown_becomes_elements_and_never_markup(settings: Settings, resolver_api: Client) -> None:
    async with api_server(settings) as served, open_browser() as browser, browser.open("about:blank") as tab:
        await tab.call("Page.navigate", url=f"http://127.0.0.1:{served.port}/chat#md")
        await tab.until(CONNECTION, "Connected")
        await tab.ask("import('/chat/markdown.js').then(({ render }) => { window.render = render; })")
        await tab.ask("window.box = document.createElement('div'); 0")
        await tab.ask(f"render(box, {json.dumps(MARKDOWN)})")
        tags = "[...box.children].map((child) => child.nodeName).join(' ')"
        assert await tab.ask(tags) == "H3 P UL OL BLOCKQUOTE PRE DIV HR P"
        assert (
            await tab.ask("[...box.querySelectorAll(':scope > p *')].map((found) => found.outerHTML)")
            == [
                "<em>em</em>",
                "<strong>strong</strong>",
                "<code>code *x*</code>",
                '<a href="https://example.org/a_b" target="_blank" rel="noopener noreferrer">a link</a>',
                "<p>quoted\nmore</p>",
            ][:4]
        )
        assert await tab.ask("box.querySelector('ul ul li').textContent") == "inner"
        assert await tab.ask("box.querySelector('pre').textContent") == '# not a heading\n\nx = "<b>"'
        assert await tab.ask("[...box.querySelectorAll('td')].map((cell) => cell.textContent)") == ["1", "2"]
        assert await tab.ask("box.querySelectorAll('img').length") == 0
        # Streamed letter by letter it comes to the same, and what is finished is not touched again.
        stream = f"""(() => {{
            const text = {json.dumps(MARKDOWN)}, other = document.createElement('div');
            let head = null, kept = true;
            for (let end = 1; end <= text.length; end += 1) {{
                window.render(other, text.slice(0, end));
                head ??= end > 10 ? other.firstChild : null;
                kept &&= head === null || other.firstChild === head;
            }}
            return [kept, other.innerHTML === box.innerHTML];
        }})()"""
        assert await tab.ask(stream) == [True, True]
