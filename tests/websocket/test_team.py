"""A team at work on the chat page: its plan and tasks, an aside, a refinement, and an agent that asks a person."""

from playwright.async_api import Locator, expect

from service.agents.resolver.scripted import OFFLINE_NOTICE
from service.config import Settings
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.browser import open_browser
from tests.support.chat_page import ChatPage
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_model import ScriptedModel
from treadle import Context, agent

QUERY = "Describe how tea is made. Describe how coffee is made. Then compare them."
TITLES = ["Describe how tea is made", "Describe how coffee is made", "Then compare them"]


async def has_tasks(chat: ChatPage, *states: str) -> None:
    """The plan of the last exchange has the three tasks of QUERY, in these states."""
    await expect(chat.tasks().locator("b")).to_have_text(TITLES)
    for number, state in enumerate(states):
        await expect(chat.tasks().nth(number)).to_have_attribute("data-state", state)


def stage(exchange: Locator) -> Locator:
    return exchange.locator(".stage").first  # an aside inside has its own


async def has_answered_aside(chat: ChatPage) -> None:
    await expect(chat.asides).to_have_count(1)
    await expect(chat.asides.locator(".request")).to_have_text("What about the tea?")
    await expect(chat.asides.locator(".agent")).to_have_text("clarifier")
    await expect(chat.asides).to_have_attribute("data-state", "done")


async def test_the_page_shows_a_plan_an_aside_and_a_refinement(
    settings: Settings, resolver_api: Client, model: ScriptedModel
) -> None:
    model.hold("task t2", "task t3", "aggregator")
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tea")
        await chat.screenshot("6-example")
        await chat.page.locator("#example").click()
        await expect(chat.text_field).to_have_value(QUERY)
        await chat.text_field.press("Enter")
        await has_tasks(chat, "done", "started", "waiting")
        await expect(stage(chat.exchanges.first)).to_have_text("Working: 1 of 3 tasks done")
        await expect(chat.page.locator(".needs").first).to_contain_text("after Describe how tea is made")

        await expect(chat.hint).to_have_text("clarifier answers while resolver is working.")
        await chat.send("What about the tea?")
        await has_answered_aside(chat)
        answer = chat.asides.locator(".answer").first
        for part in (
            "1 of 3 tasks are finished",
            "The result of “Describe how tea is made”:",
            OFFLINE_NOTICE.replace("`", ""),
        ):
            await expect(answer).to_contain_text(part)
        await chat.has_states("working")
        await chat.screenshot("7-team")

        await chat.page.get_by_label("Send as the next turn").check()
        await chat.send("The coffee should be decaffeinated")
        await chat.has_states("working", "waiting")
        await chat.close()

        model.let_go("task t2", "task t3")
        await model.holds("aggregator")
        chat = await ChatPage.open(browser, served.port, "tea")
        await chat.has_states("working", "waiting")
        await has_answered_aside(chat)
        await expect(stage(chat.exchanges.first)).to_have_text("Writing the answer: 3 of 3 tasks done")
        model.let_go("aggregator")
        await chat.has_states("done", "done")
        await expect(chat.exchanges.first.locator(".answer h5").first).to_have_text(TITLES[0])
        await has_tasks(chat, "kept", "done", "done")
        await expect(stage(chat.exchanges.last)).to_have_text("Plan: 3 of 3 tasks done, 1 kept from before")
        await expect(chat.answers.last).to_contain_text("The instruction was: Then compare them")
        await chat.screenshot("8-refined")
        whole = await chat.exchanges.all_text_contents()
        assert model.asked.count("task t1") == 1
        again = await ChatPage.open(browser, served.port, "tea")
        await again.has_states("done", "done")
        await expect(again.exchanges).to_have_text(whole)


async def test_a_retry_keeps_finished_tasks_and_drops_the_old_text(
    settings: Settings, resolver_api: Client, model: ScriptedModel
) -> None:
    model.fail("task t3", ConnectionError("The line is down."))
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "tea")
        await chat.choose_agent("resolver")
        await chat.send(QUERY)
        await chat.has_states("done")
        await has_tasks(chat, "done", "done", "done")
        await expect(chat.page.locator(".task details")).to_have_count(3)  # also of the tasks of the first attempt
        await expect(chat.page.locator(".answer.result:not(:empty)")).to_have_count(0)


async def test_a_person_answers_the_question_of_an_agent(
    settings: Settings, start_worker: StartWorker, start_api: StartApi
) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> str:
        await context.emit("Let me see. ")
        colour = await context.input("Which colour do you want?")
        await context.emit(f"A {colour} one.")
        return f"Let me see. A {colour} one."

    await start_worker(asks)
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "asks")
        await chat.choose_agent("asks")
        await chat.send("a bicycle")
        await chat.has_states("parked")
        await expect(chat.page.get_by_label("Which colour do you want?")).to_be_visible()
        await chat.screenshot("9-question")
        await chat.close()
        chat = await ChatPage.open(browser, served.port, "asks")
        await chat.page.get_by_label("Which colour do you want?").fill("red")
        await chat.page.get_by_role("button", name="Answer").click()
        await chat.has_states("done")
        await expect(chat.answers).to_have_text("Let me see. A red one.")
        await expect(chat.page.locator(".question")).to_be_hidden()


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

# Renders the text whole into `box`, and letter by letter into another element. Returns whether both became the same,
# and whether the first block stayed the same element all the time.
RENDER = """async (text) => {
    const { render } = await import('/chat/markdown.js');
    const box = document.createElement('div');
    box.id = 'box';
    document.querySelector('main').append(box);
    render(box, text);
    const streamed = document.createElement('div');
    let first = null, kept = true;
    for (let end = 1; end <= text.length; end += 1) {
        render(streamed, text.slice(0, end));
        first ??= end > 10 ? streamed.firstChild : null;
        kept &&= first === null || streamed.firstChild === first;
    }
    return [streamed.innerHTML === box.innerHTML, kept];
}"""


# Each is repeated to hundreds of kilobytes; a scanner that is not linear takes minutes or overflows the stack.
HOSTILE = [
    *(">", "> ", "[", "]", "`", "`` ` ", "a `b", "**a ", "*a ", "*", "_a ", "[a](http://x", "# a ", "- ", "  "),
    *("| ", "\n> ", "\n- "),
]
RENDER_HOSTILE = """async (unit) => {
    const { render } = await import('/chat/markdown.js');
    const text = unit.repeat(300_000 / unit.length);
    for (const whole of [text, text + 'end', '# a' + text + 'end', '- a' + text, 'a\\n| ' + text + ' |']) {
        render(document.createElement('div'), whole);
    }
}"""


async def test_hostile_markdown_is_rendered_in_linear_time(settings: Settings, resolver_api: Client) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "md")
        for unit in HOSTILE:
            await chat.page.evaluate(RENDER_HOSTILE, unit)
        nested = "\n".join("  " * depth + "- item" for depth in range(500))
        assert (
            await chat.page.evaluate(
                """async (text) => {
                const { render } = await import('/chat/markdown.js');
                const box = document.createElement('div');
                render(box, text);
                return box.textContent.match(/item/g).length;
            }""",
                nested,
            )
            == 500
        )


async def test_markdown_becomes_elements_and_never_markup(settings: Settings, resolver_api: Client) -> None:
    async with api_server(settings) as served, open_browser() as browser:
        chat = await ChatPage.open(browser, served.port, "md")
        assert await chat.page.evaluate(RENDER, MARKDOWN) == [True, True]
        box = chat.page.locator("#box")
        tags = await box.locator("> *").evaluate_all("(found) => found.map((one) => one.nodeName)")
        assert tags == ["H3", "P", "UL", "OL", "BLOCKQUOTE", "PRE", "DIV", "HR", "P"]
        assert await box.locator("> p").first.evaluate(
            "(found) => [...found.children].map((one) => one.outerHTML)"
        ) == [
            "<em>em</em>",
            "<strong>strong</strong>",
            "<code>code *x*</code>",
            '<a href="https://example.org/a_b" target="_blank" rel="noopener noreferrer">a link</a>',
        ]
        await expect(box.locator("blockquote p")).to_have_text("quoted\nmore")
        await expect(box.locator("ul ul li")).to_have_text("inner")
        assert await box.locator("pre").text_content() == '# not a heading\n\nx = "<b>"'
        await expect(box.locator("td")).to_have_text(["1", "2"])
        await expect(box.locator("img")).to_have_count(0)
