"""What an agent hands to its context and is refused for ever fails its message once: each attempt costs money."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from service.agents.contract import Unacceptable
from service.agents.rounds.tools import _failed
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.isolated_agents import sends_to_unknown
from tests.support.messages import children, run
from treadle import Context, Rejected, agent

LARGE = "y" * 2_000_000
DEEP = msgspec.json.decode("[" * 500 + "]" * 500)
FOREIGN = "0192f0c1-2222-7000-8000-000000000000"

Call = Callable[[Context], Coroutine[Any, Any, Any]]

CALLS: dict[str, tuple[Call, str]] = {
    "a large message": (lambda c: c.send(LARGE), "a message has at most 1000000 bytes"),
    "a deep message": (lambda c: c.send({"a": DEEP}), "a message must be JSON: it is nested"),
    "a message that is not JSON": (lambda c: c.send({"a": object()}), "a message must be JSON: "),
    "a large question": (lambda c: c.input(LARGE), "a question has at most 1000000 bytes"),
    "a deep question": (lambda c: c.input(DEEP), "a question must be JSON: it is nested"),
    "a large event": (lambda c: c.event("own", LARGE), "an event has at most 1000000 bytes"),
    "a deep event": (lambda c: c.event("own", DEEP), "an event must be JSON: it is nested"),
    "an event that is not JSON": (lambda c: c.event("own", object()), "an event must be JSON: "),
    "a reserved event": (lambda c: c.event("done", 1), "agents cannot write events of the type 'done'"),
    "a large record": (lambda c: c.publish("topic", LARGE), "a record has at most 1000000 bytes"),
    "a long key": (lambda c: c.publish("topic", 1, key="x" * 300), "the key must be"),
    "a thread id": (lambda c: c.send("x", thread_id="a/b"), "thread_id must be"),
    "a priority": (lambda c: c.send("x", priority="urgent"), "the priority is high, normal or low"),
    "another's message": (lambda c: c.gather(FOREIGN), "gather takes what send returned"),
    "a long name": (lambda c: c.step("x" * 201, int), "the name of a step has 1 to 200 characters"),
}
WRITES: dict[str, tuple[Call, str]] = {
    "an unknown agent": (lambda c: c.send("x", agent="nosuch"), "There is no agent 'nosuch'."),
    "an unknown topic": (lambda c: c.publish("nosuch", 1), "There is no topic 'nosuch'."),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_refused_call_is_paid_for_once(sql: Connection, start_worker: StartWorker, name: str) -> None:
    attempts: list[int] = []
    call, reason = CALLS[name]

    @agent("pays")
    async def pays(context: Context, text: str) -> None:
        attempts.append(context.attempt)
        await call(context)

    await start_worker(pays)
    row = await run(sql, "x", agent="pays")
    assert (row["state"], attempts) == ("failed", [1])
    assert row["error"].startswith(f"A call of the agent's context is refused: {reason}")


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("when", ["end", "step"])
async def test_a_send_that_reaches_no_agent_is_paid_for_once(
    sql: Connection, start_worker: StartWorker, name: str, when: str
) -> None:
    attempts: list[int] = []
    call, reason = WRITES[name]

    @agent("pays")
    async def pays(context: Context, text: str) -> None:
        attempts.append(context.attempt)
        await call(context)
        if when == "step":
            await context.step("commits", lambda: 1)

    await start_worker(pays)
    row = await run(sql, "x", agent="pays")
    assert (row["state"], row["error"], attempts) == ("failed", reason, [1])


async def test_it_is_paid_for_once_in_a_process_too(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(sends_to_unknown)
    refused = "A call of the agent's context is refused: "
    for text, reason in (("step", "There is no agent 'nosuch'."), ("large", refused)):
        row = await run(sql, text, agent="sends to unknown")
        assert (row["state"], row["attempt"]) == ("failed", 1)
        assert row["error"].startswith(reason)


async def test_an_agent_may_catch_a_refused_call(sql: Connection, start_worker: StartWorker) -> None:
    @agent("careful")
    async def careful(context: Context, text: str) -> int:
        caught = 0
        for call, _ in CALLS.values():
            try:
                await call(context)
            except ValueError:
                caught += 1
        return caught

    await start_worker(careful)
    row = await run(sql, "x", agent="careful")
    assert row["result"] == len(CALLS)
    assert await children(sql, row["message_id"]) == []


def test_a_model_hears_that_its_tool_was_refused() -> None:
    """It may call the tool with less."""
    output = _failed(Unacceptable("an event has at most 10 bytes"))
    assert (output.failed, output.text) == (True, "Unacceptable: an event has at most 10 bytes")
    with pytest.raises(Rejected):
        _failed(Rejected("No."))
