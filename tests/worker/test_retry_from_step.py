"""A message that is over is run again from a step: what came before the step is kept, the rest happens once more."""

import asyncio
import json

from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID
from tests.support.cli_runner import Cli
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.messages import children, run, settled, submit
from treadle import Context, agent


async def test_a_message_runs_again_from_a_step(
    sql: Connection, cli: Cli, start_worker: StartWorker, start_api: StartApi
) -> None:
    calls: list[str] = []
    stopping, stopped = asyncio.Event(), asyncio.Event()
    await sql.execute("select treadle.create_topic('plans')")

    @agent("child")
    async def child(context: Context, text: str) -> str:
        calls.append(text)
        return f"{text} {calls.count(text)}"

    @agent("team")
    async def team(context: Context, text: str) -> list[str]:
        async def count(name: str) -> str:
            calls.append(name)
            return f"{name} {calls.count(name)}"

        early = await context.send("early", agent="child")
        found = [await context.step("look", lambda: count("look"))]
        if stopping.is_set():
            stopped.set()
            await asyncio.Event().wait()
        late = await context.send("late", agent="child")
        found.append(await context.step("plan", lambda: count("plan")))
        await context.publish("plans", found[-1])
        await context.send("last", agent="child")
        return found + await context.gather(early, late)

    await start_worker(team, child)
    api = await start_api()
    row = await run(sql, "x", agent="team", thread_id="t", max_attempts=1)
    message_id, first = row["message_id"], ["look 1", "plan 1", "early 1", "late 1"]
    assert (row["state"], row["result"]) == ("completed", first)

    async def retry(step: str, wanted: str) -> list[str]:
        answer = await api.post(f"/messages/{message_id}/retry", json={"step": step})
        assert (answer.status_code, answer.json()["state"]) == (202, "queued"), answer.text
        again = await settled(sql, message_id, wanted)
        await assert_consistent(sql)
        return again["result"] or []

    assert await retry("plan", "completed") == ["look 1", "plan 2", "early 1", "late 2"]
    assert await retry("plan", "completed") == ["look 1", "plan 3", "early 1", "late 3"]
    sent = sorted(one["user_message"] for one in await children(sql, message_id))
    assert sent == ["early"] + ["last"] * 3 + ["late"] * 3
    published = await sql.fetch("select value from treadle.records order by record_id")
    assert sorted(one["value"] for one in published) == ["plan 1", "plan 2", "plan 3"]
    # The former lives show their own results.
    log = (await api.get(f"/messages/{message_id}/events", params={"limit": 1000})).json()["events"]
    assert next(one["data"]["result"] for one in log if one["type"] == "done") == first
    begun = [one["data"] for one in log if one["type"] == "queued"]
    assert [(one.get("redriven"), one.get("from_step")) for one in begun] == [(None, None)] + [(True, "plan")] * 2

    # A message that was cancelled on its way: what was sent with the step is sent once more, too.
    stopping.set()
    printed = await cli("retry", str(message_id), "look", "--json")
    assert json.loads(printed.stdout) == {"message_id": str(message_id), "state": "queued"}
    await stopped.wait()
    under_way = "select steps from treadle.turn_in_progress((select id from treadle.threads), 5)"
    assert await sql.fetchval(under_way) == {"look": "look 2"}  # its former lives also planned
    assert (await api.post(f"/messages/{message_id}/retry", json={"step": "look"})).status_code == 409
    await api.delete(f"/messages/{message_id}")
    await settled(sql, message_id, "cancelled")
    stopping.clear()
    refused = await api.post(f"/messages/{message_id}/retry", json={"step": "plan"})
    assert (refused.status_code, refused.json()["detail"]) == (409, "The message has no result of a step 'plan'.")
    assert await retry("look", "completed") == ["look 3", "plan 4", "early 3", "late 4"]
    assert (await api.post(f"/messages/{UNKNOWN_ID}/retry", json={"step": "look"})).status_code == 404
    assert (await settled(sql, await submit(sql, "after", agent="child", thread_id="t")))["state"] == "completed"
