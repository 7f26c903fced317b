"""Messages as operators look for them, look at them and change them, over HTTP and at the command line."""

import asyncio
import json
import re
from typing import Any

from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID, get, problem
from tests.support.api_client import Client
from tests.support.cli_runner import Cli, error_sentence
from tests.support.fixture_types import StartApi, StartWorker
from treadle import Context, Rejected, agent


@agent("planner")
async def planner(context: Context, text: str) -> str:
    """Its first attempt fails after a step; the second one asks a helper."""
    if text == "refuse":
        raise Rejected("The rate limit is reached.")
    plan = await context.step("plan", lambda: ["buy", "paint"])
    await context.event("tool", {"id": "1", "name": "search", "input": {"q": "red"}})
    if context.attempt == 1:
        raise RuntimeError("try again")
    sent = await context.send("help", agent="helper")
    [helped] = await context.gather(sent)
    return f"{plan} {helped}"


@agent("helper")
async def helper(context: Context, text: str) -> str:
    if "seat" in context.metadata:
        raise Rejected(f"No seat {context.metadata['seat']} is free.")
    return "helped"


async def test_a_message_shows_all_its_parts(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(planner, helper)
    api = await start_api()
    message_id = await api.submit("a bicycle", agent="planner", thread_id="t")
    await api.settled(message_id)
    found = await get(api, f"/messages/{message_id}")
    assert found["status"] == await api.status(message_id)
    assert found["status"]["state"] == "completed"
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["retry", "parked", "completed"]
    assert "try again" in found["attempts"][0]["error"]
    assert all(attempt["waited_seconds"] >= 0 for attempt in found["attempts"])
    step, tool, *_ = found["marks"]
    assert (step["kind"], step["name"], step["shown"], step["attempt"]) == ("step", "plan", ["buy", "paint"], 1)
    assert (tool["kind"], tool["name"], tool["shown"]) == ("tool", "search", {"q": "red"})
    assert step["began_at"] <= step["at"] <= tool["at"]
    [child] = found["descendants"]
    assert (child["agent"], child["state"], child["depth"], child["parent"]) == ("helper", "completed", 1, message_id)
    assert {count["type"]: count["events"] for count in found["events"]}["started"] == 3
    assert found["complete"]
    problem(await api.get(f"/messages/{UNKNOWN_ID}"), 404, UNKNOWN_ID)


async def test_a_list_pages_through_what_satisfies_a_filter(api: Client) -> None:
    ids = [await api.submit(f"number {n}", metadata={"n": n}) for n in range(5)][::-1]
    page = await get(api, "/messages", limit=2)
    assert [message["message_id"] for message in page["messages"]] == ids[:2]
    assert page["messages"][0]["user_message"] == "number 4"
    assert page["searched_until"] is not None
    rest = await get(api, "/messages", limit=9, cursor=page["next_cursor"])
    assert [message["message_id"] for message in rest["messages"]] == ids[2:]
    assert (rest["next_cursor"], rest["searched_until"]) == (None, None)
    assert [m["message_id"] for m in (await get(api, "/messages", q="NUMBER 3"))["messages"]] == [ids[1]]
    for name, value, status in (
        ("state", "lost", 422),
        ("q", "", 400),
        ("q", "\0", 422),
        ("parent", "x", 400),
        ("since", "today", 400),
        ("cursor", "x", 400),
    ):
        problem(await api.get("/messages", params={name: value}), status)


async def test_a_page_has_about_a_megabyte(api: Client) -> None:
    batch = [{"message": "x" * 1900, "metadata": {}} for _ in range(1000)]
    await api.post("/messages/batch", json={"messages": batch})
    sizes: list[int] = []
    cursor: dict[str, str] = {}
    listed: set[str] = set()
    while True:
        page = await api.get("/messages", params={"limit": 1000, **cursor})
        sizes.append(len(page.content))
        listed |= {message["message_id"] for message in page.json()["messages"]}
        if page.json()["next_cursor"] is None:
            break
        cursor = {"cursor": page.json()["next_cursor"]}
    assert (len(listed), len(sizes)) == (1000, 3)
    assert all(900_000 < size < 1_200_000 for size in sizes[:-1]), sizes


async def test_session_id_is_another_name_of_thread_id(api: Client) -> None:
    await api.submit("x", thread_id="t")
    await api.submit("x", thread_id="u")
    for query in ("session_id=t", "session_id=t&thread_id=t"):
        listed = (await api.get(f"/messages?{query}")).json()["messages"]
        assert [message["thread_id"] for message in listed] == ["t"]
    counted = await api.post("/messages/cancel", json={"session_id": "t"})
    assert counted.json()["matched"] == 1
    problem(await api.get("/messages?session_id=t&thread_id=u"), 422, "another name of thread_id")
    problem(await api.post("/messages/cancel", json={"session_id": "t", "thread_id": "u"}), 422, "another name")


async def test_a_waiting_message_and_a_thread_change(api: Client) -> None:
    message_id = await api.submit("x", thread_id="t")
    answer = await api.patch(f"/messages/{message_id}", json={"priority": "low", "metadata": {"a": 1}})
    assert (answer.status_code, answer.json()["priority"], answer.json()["metadata"]) == (200, "low", {"a": 1})
    delayed = (await api.patch(f"/messages/{message_id}", json={"delay_seconds": 60})).json()
    assert (delayed["hold"], delayed["metadata"]) == ("delay", {"a": 1})
    for wrong in ({"priority": "urgent"}, {"delay_seconds": -1}, {"metadata": {"a": "\0"}}, {"other": 1}):
        problem(await api.patch(f"/messages/{message_id}", json=wrong), 422)
    problem(await api.patch(f"/messages/{UNKNOWN_ID}", json={"priority": "low"}), 404)
    await api.delete(f"/messages/{message_id}")
    problem(await api.patch(f"/messages/{message_id}", json={"priority": "low"}), 409, "cancelled, not queued")
    changed = await api.patch("/threads/t", json={"metadata": {"customer": "7"}})
    assert (changed.status_code, changed.json()["metadata"]) == (200, {"customer": "7"})
    problem(await api.patch("/threads/nope", json={"metadata": {}}), 404)


async def test_many_messages_are_counted_then_cancelled_or_redriven(
    start_api: StartApi, start_worker: StartWorker, sql: Connection, cli: Cli
) -> None:
    await start_worker(planner, helper)
    api = await start_api()
    ids = [await api.submit("refuse", agent="planner", max_attempts=1) for _ in range(5)]
    await asyncio.gather(*(api.settled(message_id, "failed") for message_id in ids))
    wanted: dict[str, Any] = {"agent": "planner", "error": "RATE limit"}
    counted = (await api.post("/messages/redrive", json=wanted)).json()
    assert counted == {"matched": 5, "changed": 0, "skipped": 0, "next_cursor": None, "searched_until": None}
    await sql.execute("select treadle.pause('default')")
    part = (await api.post("/messages/redrive", json=wanted | {"preview": False, "limit": 2})).json()
    assert (part["changed"], part["next_cursor"]) == (2, ids[3])
    assert (await api.status(ids[4]))["state"] == "queued"
    problem(await api.post("/messages/redrive", json={"state": "queued"}), 422, "state")
    done = (await api.post("/messages/cancel", json={"agent": "planner", "preview": False})).json()
    assert (done["matched"], done["changed"], done["skipped"]) == (2, 2, 0)
    assert (await api.status(ids[4]))["state"] == "cancelled"
    # The same at the command line.
    assert "or select messages with options" in (await cli("redrive")).stderr
    asked = await cli("redrive", "--agent", "planner", input="n\n")
    assert (asked.exit_code, "Redrive 3 messages?" in asked.stderr) == (1, True)
    told = json.loads((await cli("redrive", "--agent", "planner", "--yes", "--json")).stdout)
    assert told == {"changed": 3, "skipped": 0}
    assert (await cli("cancel", ids[0])).stdout == f"{ids[0]}: cancelled\n"
    assert "is cancelled already" in error_sentence(await cli("cancel", ids[0]))
    assert (await cli("cancel", "--agent", "nope", "--yes", "--json")).stdout == '{"changed":0,"skipped":0}\n'


async def test_commands_list_and_watch(start_api: StartApi, start_worker: StartWorker, cli: Cli) -> None:
    await start_worker(helper)
    api = await start_api()
    message_id = await api.submit("x", agent="helper")
    await api.settled(message_id)
    listed = json.loads((await cli("messages", "--state", "completed", "--since", "1h", "--json")).stdout)
    assert [message["message_id"] for message in listed["messages"]] == [message_id]
    assert message_id in (await cli("messages")).stdout
    assert (await cli("messages", "--q", "nothing")).stdout == "No message satisfies this.\n"
    assert "helper" in (await cli("agents")).stdout
    [worker] = json.loads((await cli("workers", "--json")).stdout)
    assert worker["concurrency"] > 0
    assert '"' not in (await cli("workers")).stdout  # its queues are not JSON
    for number in (4, 17):
        await api.settled(await api.submit("x", agent="helper", metadata={"seat": number}), "failed")
    assert re.search(r"^ +2 +No seat 17 is free\.", (await cli("messages", "--state", "failed")).stdout, re.MULTILINE)
    assert "The queue default is paused" in (await cli("pause", "default")).stdout
    assert (await cli("resume", "default")).stdout == "The queue default goes on.\n"
    assert "nope" in error_sentence(await cli("pause", "nope"))
    shown = (await cli("top", "--once")).stdout
    assert "default" in shown
    assert "completed" in shown
