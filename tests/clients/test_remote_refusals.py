"""What agents of a remote worker make that no server takes, now or later: each message fails at once, with the
sentence, and is not paid for again."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.api_client import Client
from tests.support.serving import serving, url_of
from treadle import Context, Worker, agent

paid: list[str] = []


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def text(megabytes: int) -> str:
    return "x" * megabytes * 1_000_000


async def returned(value: Any) -> Any:
    return value


async def own_turn(context: Context) -> Any:
    return await context.gather(await context.send("x", agent="echo", thread_id="t"))


LARGE = "bytes; at most 1000000 are allowed"
HUGE = "at most 10000000 bytes (MAX_BODY_BYTES) are allowed"
CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "step, deep": (lambda context: context.step("s", lambda: deep(3_000)), "is not JSON"),
    "step, less deep": (lambda context: context.step("s", lambda: deep(500)), "nested too deeply"),
    "step, large": (lambda context: context.step("s", lambda: text(2)), LARGE),
    "step, huge": (lambda context: context.step("s", lambda: text(21)), HUGE),
    "step, no JSON": (lambda context: context.step("s", object), "is not JSON"),
    "result, deep": (lambda _: returned(deep(3_000)), "is not JSON"),
    "result, less deep": (lambda _: returned(deep(500)), "nested too deeply"),
    "result, large": (lambda _: returned(text(11)), HUGE),
    "result, huge": (lambda _: returned(text(21)), HUGE),
    "event, deep": (lambda context: context.event("note", deep(3_000)), "is not JSON"),
    "event, large": (lambda context: context.event("note", text(2)), LARGE),
    "event, no JSON": (lambda context: context.event("note", object()), "is not JSON"),
    "send, deep": (lambda context: context.send({"a": deep(500)}, agent="echo"), "nested too deeply"),
    "send, deeper": (lambda context: context.send({"a": deep(3_000)}, agent="echo"), "is not JSON"),
    "send, large": (lambda context: context.send(text(2), agent="echo"), "at most 100000 are allowed"),
    "send, unknown": (lambda context: context.send("x", agent="nosuch"), "nosuch"),
    "publish, large": (lambda context: context.publish("told", text(2)), "bytes"),
    "publish, unknown": (lambda context: context.publish("nosuch", 1), "nosuch"),
    "input, deep": (lambda context: context.input(deep(500)), "nested too deeply"),
    "input, large": (lambda context: context.input(text(2)), LARGE),
    "input, huge": (lambda context: context.input(text(21)), HUGE),
    "step, long name": (lambda context: context.step("x" * 201, list), "1 to 200 characters"),
    "send, long name": (lambda context: context.send("x", name="x" * 201), "1 to 200 characters"),
    "emit, no text": (lambda context: context.emit(7), "emit takes text"),
    "gather, own turn": (own_turn, "waits for this one's turn"),
    "usage, deep": (lambda context: returned(context.usage(a=deep(3_000))), "is not JSON"),
}


@agent("pays")
async def pays(context: Context, how: str) -> Any:
    paid.append(how)
    if how == "many events":
        for _ in range(2_000):
            await context.emit("x")
        return 2_000
    return await CALLS[how][0](context)


@pytest.fixture
async def api(api_with_worker: Client) -> AsyncIterator[Client]:
    paid.clear()
    await api_with_worker.put("/topics/told", json={})
    async with serving(Worker(pays, url=url_of(api_with_worker))):
        yield api_with_worker


async def test_what_the_server_refuses_for_good_ends_the_message_at_once(api: Client) -> None:
    for how, (_, words) in CALLS.items():
        status = await api.settled(await api.submit(how, agent="pays", thread_id="t"))
        assert (status["state"], status["attempt"]) == ("failed", 1), how
        assert words in status["error"], how
    assert paid == list(CALLS)


async def test_events_that_no_single_call_takes_are_in_the_log_before_the_end(api: Client) -> None:
    message_id = await api.submit("many events", agent="pays")
    assert (await api.settled(message_id))["result"] == 2_000
    chunks = [event.data["chunk"] for event in await api.events(message_id) if event.type == "chunk"]
    assert "".join(chunks) == "x" * 2_000
