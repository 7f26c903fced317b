"""Questions and answers, asides, memory and usage of a thread, over HTTP."""

from typing import Any

from service.agents.builtin.echo import echo
from tests.support.api_answers import UNKNOWN_ID, get, problem
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import until
from treadle import Context, agent


@agent("asks")
async def asks(context: Context, text: str) -> Any:
    """Asks twice."""
    first = await context.input({"sure": text}, name="sure?")
    second = await context.input("And now?", name="now?")
    context.memory["answers"] = [first, second]
    context.usage(tokens=2, cost=0.25, model="m")
    return context.memory["answers"]


async def waiting(api: Client, message_id: str, question: str) -> dict[str, Any]:
    found: dict[str, Any] = await until(
        lambda: api.status(message_id), lambda row: (row["asks"] or {}).get("name") == question
    )
    return found


async def test_an_agent_asks_two_questions_in_a_row(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(asks)
    api = await start_api()
    message_id = await api.submit("x", agent="asks", thread_id="t")
    status = await waiting(api, message_id, "sure?")
    assert (status["state"], status["hold"], status["queue_position"]) == ("queued", "input", None)
    assert status["asks"] == {"name": "sure?", "question": {"sure": "x"}}
    path = f"/messages/{message_id}/input"
    answer = await api.post(path, json={"input": {"yes": True}, "name": "sure?"})
    assert (answer.status_code, answer.json()) == (202, {"message_id": message_id, "state": "queued"})
    await waiting(api, message_id, "now?")
    problem(await api.post(path, json={"input": {"yes": True}, "name": "sure?"}), 409, "asks 'now?' now")
    assert (await api.post(path, json={"input": None})).status_code == 202
    status = await api.settled(message_id)
    assert (status["result"], status["asks"], status["attempt"]) == ([{"yes": True}, None], None, 3)
    problem(await api.post(path, json={"input": 1}), 409, "does not wait for input", "completed")
    assert (await get(api, "/threads/t"))["memory"] == {"answers": [{"yes": True}, None]}


async def test_invalid_answers_are_refused(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(asks)
    api = await start_api(max_event_bytes=2_000)
    problem(await api.post(f"/messages/{UNKNOWN_ID}/input", json={"input": 1}), 404, "no message")
    problem(await api.post("/messages/x/input", json={"input": 1}), 404, "There is no message 'x'.")
    message_id = await api.submit("x", agent="asks")
    await waiting(api, message_id, "sure?")
    path = f"/messages/{message_id}/input"
    for body in (
        {},
        {"input": 1, "name": 2},
        {"inputs": 1},
        {"input": "\x00"},
        {"input": "x" * 2_000},
        {"input": {"\x00": 1}},
    ):
        problem(await api.post(path, json=body), 422)
    assert (await api.status(message_id))["hold"] == "input"


async def test_a_message_that_waits_for_input_can_be_cancelled(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(asks)
    api = await start_api()
    message_id = await api.submit("x", agent="asks", thread_id="t")
    await waiting(api, message_id, "sure?")
    assert (await api.delete(f"/messages/{message_id}")).status_code == 200
    assert (await api.settled(message_id))["state"] == "cancelled"


async def test_an_aside_does_not_wait_for_its_thread(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(asks, echo)
    api = await start_api()
    message_id = await api.submit("x", agent="asks", thread_id="t")
    await waiting(api, message_id, "sure?")
    behind = await api.submit("behind", agent="echo", thread_id="t")
    aside = await api.settled(await api.submit("aside", agent="echo", thread_id="t", aside=True))
    assert (aside["state"], aside["aside"]) == ("completed", True)
    assert (await api.status(behind))["hold"] == "thread"
    problem(await api.post("/messages", json={"message": "x", "aside": True}), 422, "thread_id")


async def test_the_usage_of_a_thread_is_summed(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(asks, echo)
    api = await start_api()
    for _ in range(2):
        message_id = await api.submit("x", agent="asks", thread_id="t")
        for name in ("sure?", "now?"):
            await waiting(api, message_id, name)
            await api.post(f"/messages/{message_id}/input", json={"input": 1})
        await api.settled(message_id)
    await api.settled(await api.submit("x", agent="echo", thread_id="t"))
    assert await get(api, "/threads/t/usage") == {
        "thread_id": "t",
        "messages": 2,
        "usage": {"tokens": 4, "cost": 0.5},
    }
    problem(await api.get("/threads/unknown/usage"), 404, "no thread")
