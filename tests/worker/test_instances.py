"""Warm instances that take too long to make, and those of deleted threads."""

import asyncio
import json
import threading
from typing import Any

from service.db.pool import Connection
from tests.support.cli_runner import Cli
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import run, settled, submit
from tests.support.waiting import until, wait_for
from treadle import Context, agent


class Browser:
    """Something whose first start hangs."""

    def __init__(self) -> None:
        self.starts = 0
        self.cancelled = 0

    async def start(self) -> object:
        self.starts += 1
        if self.starts == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return object()


async def test_an_instance_that_is_never_made_blocks_only_its_attempt(
    sql: Connection, start_worker: StartWorker
) -> None:
    browser = Browser()

    @agent("browse", timeout=0.2, max_attempts=100)  # on a busy machine, an attempt may take its time for anything
    async def browse(context: Context, text: str) -> str:
        await context.instance(browser.start)
        return text

    await start_worker(browse)
    row = await run(sql, "x", agent="browse", thread_id="t")
    assert (row["state"], browser.starts, browser.cancelled) == ("completed", 2, 1)
    assert (await run(sql, "y", agent="browse", thread_id="t"))["state"] == "completed"
    assert browser.starts == 2


async def test_a_worker_stops_while_an_instance_is_made(sql: Connection, start_worker: StartWorker) -> None:
    browser, let_go = Browser(), threading.Event()
    begun = threading.Event()

    def start() -> None:
        begun.set()
        let_go.wait(60)

    @agent("browse")
    async def browse(context: Context, text: str) -> Any:
        return await context.instance(start if text == "sync" else browser.start)

    worker = await start_worker(browse, shutdown_grace=0.0)
    for text in ("sync", "async"):
        await submit(sql, text, agent="browse", thread_id=text)
    await until(lambda: browser.starts)
    await wait_for(begun)
    worker.stop()
    await until(lambda: browser.cancelled)
    let_go.set()


async def test_closing_an_instance_holds_no_loop(sql: Connection, start_worker: StartWorker) -> None:
    """A sync `close` runs in a thread, because it may block."""
    closes, let_go = threading.Event(), threading.Event()

    class Slow:
        def close(self) -> None:
            closes.set()
            let_go.wait(20)

    @agent("slow")
    async def slow(context: Context, text: str) -> None:
        await context.instance(Slow)

    await start_worker(slow)
    await run(sql, "x", agent="slow")  # without a thread, so that it is closed at once
    await wait_for(closes)
    assert (await run(sql, "y", agent="slow"))["state"] == "completed"
    let_go.set()


async def test_the_warm_instances_are_listed_and_a_dropped_one_is_not(
    sql: Connection, cli: Cli, start_worker: StartWorker, start_api: StartApi
) -> None:
    @agent("remembers")
    async def remembers(context: Context, text: str) -> None:
        await context.instance(dict)

    worker = await start_worker(remembers, heartbeat_interval=0.1)
    api = await start_api()

    async def threads() -> list[tuple[str, str]]:
        found = (await api.get("/instances", params={"agent": "remembers"})).json()
        assert all(one["worker_id"] == worker.worker_id and one["age_seconds"] >= 0 for one in found)
        return [(one["agent"], one["thread_id"]) for one in found]

    await run(sql, "x", agent="remembers", thread_id="first")
    await run(sql, "y", agent="remembers", thread_id="second")
    await until(threads, lambda found: sorted(found) == [("remembers", "first"), ("remembers", "second")])
    [only] = (await api.get("/instances", params={"thread_id": "first"})).json()
    assert only["thread_id"] == "first"
    assert (await api.get("/instances", params={"agent": "another"})).json() == []
    [printed] = json.loads((await cli("instances", "--thread", "first", "--json")).stdout)
    assert printed["thread_id"] == "first"
    await api.delete("/instances/remembers/first")
    await until(threads, lambda found: found == [("remembers", "second")])


async def test_a_thread_that_begins_again_has_an_instance_of_its_own(
    sql: Connection, start_worker: StartWorker
) -> None:
    closed: list[list[str]] = []

    class Said(list[str]):
        def close(self) -> None:
            closed.append([*self])

    @agent("remembers")
    async def remembers(context: Context, text: str) -> list[str]:
        said = await context.instance(Said)
        said.append(text)
        return [*said]

    await start_worker(remembers)
    await run(sql, "PIN", agent="remembers", thread_id="t")
    assert (await run(sql, "2", agent="remembers", thread_id="t"))["result"] == ["PIN", "2"]
    await sql.fetchval("select treadle.delete_thread('t')")
    assert (await run(sql, "3", agent="remembers", thread_id="t"))["result"] == ["3"]
    await until(lambda: closed == [["PIN", "2"]])
    row = await settled(sql, await submit(sql, "4", agent="remembers", thread_id="t"))
    assert row["result"] == ["3", "4"]
