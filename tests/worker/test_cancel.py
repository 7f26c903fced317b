"""A running agent is cancelled, whether or not it cooperates, and with or without the hint."""

import asyncio
import contextlib
import threading

from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import overview, run, settled, submit, text, types
from tests.support.ports import with_closed_port
from tests.support.waiting import until, wait_for
from tests.support.workers import running_worker, worker_ids, worker_in_thread
from treadle import Context, agent


async def test_a_running_agent_is_cancelled_and_cleans_up(sql: Connection, start_worker: StartWorker) -> None:
    running, cleaned = asyncio.Event(), asyncio.Event()

    @agent("endless")
    async def endless(context: Context, request: str) -> str:
        await context.emit("before")
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert context.cancelled
            await context.emit("last words")
            cleaned.set()
            raise
        return "never"

    await start_worker(endless)
    message_id = await submit(sql, "x", agent="endless")
    await wait_for(running)
    assert await sql.fetchval("select treadle.cancel($1)", message_id) == "requested"
    message = await settled(sql, message_id)
    assert cleaned.is_set()
    assert (message["state"], message["result"], message["error"], message["failures"]) == ("cancelled", None, None, 0)
    assert await types(sql, message_id) == ["queued", "started", "chunk", "chunk", "cancelled"]
    assert await text(sql, message_id) == "beforelast words"


async def test_an_agent_that_ignores_its_cancellation_does_not_delay_the_message(
    sql: Connection, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @agent("stubborn")
    async def stubborn(context: Context, request: str) -> str:
        running.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        try:
            await context.emit("too late")
        except BaseException as error:
            ended.set_result(type(error).__name__)
            raise
        return "too late"

    await start_worker(stubborn, echo)
    message_id = await submit(sql, "x", agent="stubborn")
    await wait_for(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    release.set()
    assert await ended == "CancelledError"
    assert (await run(sql, "next", agent="echo"))["result"] == "next"
    assert await types(sql, message_id) == ["queued", "started", "cancelled"]
    assert (await overview(sql, message_id))["state"] == "cancelled"


async def test_an_agent_that_only_emits_and_ignores_its_cancellation_cannot_block_its_worker(
    sql: Connection, settings: Settings
) -> None:
    running, release = threading.Event(), threading.Event()

    @agent("babbling")
    async def babbling(context: Context, request: str) -> str:
        running.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await context.emit("x" * 1000)
        return "done"

    with worker_in_thread(settings, babbling, echo) as worker:
        await until(lambda: worker_ids(sql), lambda found: worker.worker_id in found)
        message_id = await submit(sql, "x", agent="babbling")
        await wait_for(running)
        await sql.fetchval("select treadle.cancel($1)", message_id)
        assert (await settled(sql, message_id))["state"] == "cancelled"
        assert (await run(sql, "next", agent="echo"))["result"] == "next"
        release.set()


async def test_a_cancel_accepted_before_the_finish_wins_over_the_result(
    sql: Connection, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @agent("quick")
    async def quick(context: Context, request: str) -> str:
        running.set()
        await release.wait()
        return "done"

    await start_worker(quick)
    message_id = await submit(sql, "x", agent="quick")
    await wait_for(running)
    await sql.execute("update treadle.leases set cancel_requested = true")
    release.set()
    message = await settled(sql, message_id)
    assert (message["state"], message["result"]) == ("cancelled", None)
    assert (await types(sql, message_id))[-1] == "cancelled"


async def test_a_failing_agent_that_is_cancelled_is_cancelled_not_retried(
    sql: Connection, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @agent("clumsy")
    async def clumsy(context: Context, request: str) -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while cleaning up") from None
        return "never"

    await start_worker(clumsy)
    message_id = await submit(sql, "x", agent="clumsy")
    await wait_for(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["failures"]) == ("cancelled", 1, 0)


async def test_the_heartbeat_reports_a_cancellation_whose_hint_was_lost(sql: Connection, settings: Settings) -> None:
    running = asyncio.Event()

    @agent("endless")
    async def endless(context: Context, request: str) -> str:
        running.set()
        await asyncio.Event().wait()
        return "never"

    deaf = with_closed_port(str(settings.database_url))
    async with running_worker(sql, settings, endless, listen_database_url=deaf) as worker:
        message_id = await submit(sql, "x", agent="endless")
        await wait_for(running)
        assert await sql.fetchval("select treadle.cancel($1)", message_id) == "requested"
        assert (await settled(sql, message_id))["state"] == "cancelled"
        assert not worker.ready


async def test_deleting_a_thread_stops_its_running_agent(sql: Connection, start_worker: StartWorker) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    @agent("endless")
    async def endless(context: Context, request: str) -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    await start_worker(endless, echo)
    await submit(sql, "x", agent="endless", thread_id="t")
    await wait_for(running)
    await sql.fetchval("select treadle.delete_thread('t')")
    await wait_for(stopped)
    assert (await run(sql, "again", agent="echo", thread_id="t"))["result"] == "again"
