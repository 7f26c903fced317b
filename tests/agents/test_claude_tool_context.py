"""What a tool of a Claude agent does with the context of its call: sends, questions, and its end."""

import asyncio
import threading
from typing import Any

from service.agents.rounds.tools import CallContext
from service.db.pool import Connection
from tests.support.claude_runs import StartClaudeAgent, ask_claude, event_data, tool_results
from tests.support.fake_anthropic import FakeAnthropic, tool_calls
from tests.support.messages import log, overview, settled, submit
from tests.support.waiting import until, wait_for
from treadle import Context


async def test_a_tool_has_the_context(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    """Also in a sync tool, which runs in a thread. A step in a tool belongs to that call of the tool."""
    paid: list[int] = []

    async def pay(context: Context, cents: int) -> Any:
        async def charge() -> int:
            paid.append(cents)
            return len(paid)

        await context.event("progress", {"cents": cents})
        return [context.message_id, await context.step("charge", charge)]

    def pay_sync(context: Context, cents: int) -> Any:
        waiting: Any = context

        def charge() -> int:
            paid.append(cents)
            return len(paid)

        waiting.event("progress", {"cents": cents})
        return [waiting.message_id, waiting.step("charge", charge)]

    fake_claude.script += [
        tool_calls(("a", "pay", {"cents": 1})),
        tool_calls(("b", "pay", {"cents": 2}), ("c", "pay_sync", {"cents": 3})),
    ]
    await start_claude(pay, pay_sync)
    message = await ask_claude(sql)
    assert message["state"] == "completed"
    assert paid[0] == 1
    assert sorted(paid) == [1, 2, 3]
    assert sorted(event["cents"] for event in await event_data(sql, message, "progress")) == [1, 2, 3]
    names = [step["name"] for step in await event_data(sql, message, "step") if "charge" in step["name"]]
    assert sorted(names) == ["tool 1.1 pay: charge", "tool 2.1 pay: charge", "tool 2.2 pay_sync: charge"]
    assert all(str(message["message_id"]) in result["content"] for result in tool_results(fake_claude, 2))


async def test_sends_and_questions_belong_to_their_call() -> None:
    """Otherwise, if one call is not repeated, another call would take its answer. Those without a name are numbered in
    the step of the call."""
    asked: list[tuple[str, str | None]] = []

    class Asking:
        async def send(self, message: Any, *, name: str | None = None, **options: Any) -> str:
            asked.append((message, name))
            return "id"

        async def input(self, question: Any = None, *, name: str | None = None) -> Any:
            asked.append((question, name))

    for call in ("tool 1.1 ask", "tool 2.1 ask"):
        context: Any = CallContext(Asking(), call)  # type: ignore[arg-type]
        await context.send("a")
        await context.send("b", agent="x", name="mine")
        await context.input("c")
        await context.input("d")
    assert asked == [
        asks for turn in (1, 2) for asks in (("a", None), ("b", f"tool {turn}.1 ask: mine"), ("c", None), ("d", None))
    ]


async def test_a_sync_tool_that_waits_ends_with_its_message(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    waiting, ended = threading.Event(), threading.Event()

    def waits(context: Context) -> None:
        async def for_ever() -> None:
            waiting.set()
            await asyncio.Event().wait()

        try:
            context.step("wait", for_ever)  # type: ignore[unused-coroutine]
        finally:
            ended.set()

    fake_claude.script.append(tool_calls(("a", "waits", {})))
    await start_claude(waits)
    message_id = await submit(sql, "Hi", agent="desk")
    await wait_for(waiting)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(ended)


async def test_a_sync_tool_that_goes_on_without_an_answer_begins_nothing(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    """Whatever it catches: what it pays is a step, and needs the answer."""
    paid: list[str] = []
    raised: list[BaseException] = []
    ended = threading.Event()

    def refund(context: Context) -> str:
        for _ in range(2):
            try:
                context.input("May I?")  # type: ignore[unused-coroutine]
            except Exception:
                paid.append("without an answer")
            except BaseException as error:
                raised.append(error)
        try:
            context.step("pay", lambda: paid.append("by a step"))  # type: ignore[unused-coroutine]
        except BaseException as error:
            raised.append(error)
        ended.set()
        return "paid"

    fake_claude.script.append(tool_calls(("a", "refund", {})))
    await start_claude(refund)
    message_id = await submit(sql, "Hi", agent="desk")
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    await wait_for(ended)
    assert paid == []
    assert [type(error) for error in raised] == [asyncio.CancelledError] * 3


async def test_cancelling_ends_a_tool(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    fake_claude.script.append(tool_calls(("a", "waits", {})))
    await start_claude(waits)
    message_id = await submit(sql, "Hi", agent="desk")
    await wait_for(waiting)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(ended)


async def test_tools_may_ask_a_person(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    """Each call receives its own answer, and the model is not called again."""

    async def approve(context: Context, what: str) -> str:
        return f"{what}: {await context.input(what)}"

    def approve_sync(context: Context, what: str) -> str:
        return f"{what}: {context.input(what)}"

    fake_claude.script += [
        tool_calls(("a", "approve", {"what": "one"}), ("b", "approve_sync", {"what": "two"}), pieces=("May I?",)),
        tool_calls(("c", "approve", {"what": "three"})),
    ]
    await start_claude(approve, approve_sync)
    message_id = await submit(sql, "Hi", agent="desk")
    answered: list[str] = []
    while len(answered) < 3:
        wait = await until(lambda: log(sql, message_id), lambda found: found[-1].type == "parked")
        question = wait[-1].data["question"]
        assert question not in answered
        answered.append(question)
        await sql.fetchval("select treadle.input($1, to_jsonb($2::text))", message_id, f"yes, {question}")
    row = await settled(sql, message_id)
    assert (row["state"], row["result"], row["failures"]) == ("completed", "Hello, world", 0)
    assert sorted(answered[:2]) == ["one", "two"]
    assert [result["content"] for result in tool_results(fake_claude, 1)] == ["one: yes, one", "two: yes, two"]
    assert [result["content"] for result in tool_results(fake_claude, 2)] == ["three: yes, three"]
    assert len(fake_claude.requests) == 3
