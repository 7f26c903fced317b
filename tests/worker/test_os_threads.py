"""The threads of a worker: a function that hangs is counted, and keeps nothing else from running or stopping."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.test import TestModel

from service.agents.os_threads import Threads, WorkerThreads
from service.agents.thread_bridge import ThreadBridge, call_in_thread
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, settled, submit
from tests.support.waiting import until, wait_for
from treadle import Context, agent
from treadle.adapters import pydantic_ai_agent


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Ends the functions that hang."""
    event = threading.Event()
    yield event
    event.set()


def hang_until(let_go: threading.Event) -> tuple[Callable[[], None], threading.Event]:
    """A function that hangs, and an event that tells when it does: a call can be withdrawn before."""
    begun = threading.Event()

    def hang() -> None:
        begun.set()
        let_go.wait(60)

    return hang, begun


def serve(places: int) -> Threads:
    threads = Threads(places)
    threads.serve(asyncio.get_running_loop())
    return threads


async def test_an_abandoned_function_gives_its_place_to_the_next(let_go: threading.Event) -> None:
    threads = serve(1)
    hang, begun = hang_until(let_go)
    hung = asyncio.create_task(call_in_thread(hang))
    follows = asyncio.create_task(call_in_thread(lambda: "follows"))
    dropped = asyncio.create_task(call_in_thread(lambda: pytest.fail("was cancelled before it began")))
    await wait_for(begun)
    assert threads.abandoned == 0
    dropped.cancel()
    hung.cancel()
    assert await follows == "follows"
    assert threads.abandoned == 1
    let_go.set()
    await until(lambda: threads.abandoned == 0)
    assert await call_in_thread(lambda: "again") == "again"


async def test_at_most_so_many_functions_run_at_once() -> None:
    serve(2)
    running, most = 0, 0
    lock = threading.Lock()

    def count() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    await asyncio.gather(*(call_in_thread(count) for _ in range(50)))
    assert (running, most) == (0, 2)


async def test_functions_within_functions_need_no_further_place() -> None:
    """Otherwise functions that wait for functions could take all places."""
    serve(1)
    bridge = ThreadBridge()

    def nested(levels: int) -> int:
        return 1 + bridge.wait(call_in_thread(nested, levels - 1)) if levels else 0

    assert await asyncio.gather(*(call_in_thread(nested, 3) for _ in range(4))) == [3] * 4


@pytest.mark.parametrize("debug", [False, True])
async def test_names_are_looked_up_while_functions_hang(let_go: threading.Event, debug: bool) -> None:
    """asyncio's own loop looks them up in its threads, also in debug mode."""
    serve(2)
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    hung = [asyncio.create_task(call_in_thread(let_go.wait, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert await loop.getaddrinfo("localhost", 80)
        assert await loop.getnameinfo(("127.0.0.1", 80))
    let_go.set()
    await asyncio.gather(*hung)


async def test_a_worker_connects_again_while_functions_hang(
    sql: Connection, dsn: str, start_worker: StartWorker, let_go: threading.Event
) -> None:
    begun = threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        let_go.wait(60)

    @agent("hangs")
    async def hangs(context: Context, text: str) -> None:
        await asyncio.gather(*(context.step(name, hang) for name in "abc"))

    @agent("works")
    async def works(context: Context, text: str) -> str:
        return text.upper()

    assert "127.0.0.1" in dsn
    await start_worker(hangs, works, database_url=dsn.replace("127.0.0.1", "localhost"), worker_concurrency=3)
    await submit(sql, "x", agent="hangs")
    for _ in range(3):  # they hold every place
        await until(lambda: begun.acquire(blocking=False))
    end = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where application_name like 'treadle worker%' and datname = current_database()"
    )
    assert await sql.fetchval(end)
    assert (await run(sql, "x", agent="works"))["result"] == "X"


async def test_stop_iteration_is_an_ordinary_error() -> None:
    serve(1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await call_in_thread(next, iter([]))


async def test_a_shut_down_pool_waits_for_no_function(let_go: threading.Event) -> None:
    pool = WorkerThreads(1)
    hang, begun = hang_until(let_go)
    hung, waits = pool.submit(hang), pool.submit(lambda: None)
    await wait_for(begun)
    pool.shutdown(wait=True)
    assert (hung.running(), waits.cancelled()) == (True, True)
    with pytest.raises(RuntimeError):
        pool.submit(lambda: None)


@pytest.mark.parametrize("how", ["step", "instance", "to_thread", "agent", "pydantic_ai"])
async def test_hung_functions_are_counted_and_let_others_run(
    how: str, sql: Connection, start_worker: StartWorker, let_go: threading.Event
) -> None:
    @agent("hangs", timeout=0.1, max_attempts=1)
    async def hangs(context: Context, text: str) -> None:
        match how:
            case "step":
                await context.step("hangs", lambda: let_go.wait(60))
            case "instance":
                await context.instance(lambda: let_go.wait(60))
            case "to_thread":
                await asyncio.to_thread(let_go.wait, 60)

    @agent("hangs", timeout=0.1, max_attempts=1)
    def hangs_sync(context: Any, text: str) -> None:
        let_go.wait(60)

    @agent("works", max_attempts=1)
    async def works(context: Context, text: str) -> Any:
        return await context.step("works", text.upper)

    def hang() -> str:
        return str(let_go.wait(60))

    framework = PydanticAgent(TestModel(), tools=[hang])
    of_framework = pydantic_ai_agent("hangs", framework, timeout=0.5, max_attempts=1)
    hanging = {"agent": hangs_sync, "pydantic_ai": of_framework}.get(how, hangs)
    worker = await start_worker(hanging, works, worker_concurrency=4)
    while worker._services.os_threads.abandoned < 3:  # an attempt may end before its thread begins
        assert "took longer than" in (await run(sql, "x", agent="hangs"))["error"]
    assert worker._services.os_threads.abandoned == 3
    assert (await run(sql, "x", agent="works"))["result"] == "X"


async def test_a_worker_whose_places_are_all_taken_stops(
    sql: Connection, start_worker: StartWorker, let_go: threading.Event
) -> None:
    @agent("hangs", timeout=0.1, max_attempts=1)
    async def hangs(context: Context, text: str) -> None:
        await context.step("hangs", lambda: let_go.wait(60))

    worker = await start_worker(hangs, worker_concurrency=2)
    while worker._services.os_threads.abandoned < 2:  # an attempt may end before its thread begins
        assert (await run(sql, "x", agent="hangs"))["state"] == "failed"
    await until(lambda: sql.fetchval("select count(*) from treadle.workers"), lambda count: count == 0)
    assert not worker.ready


async def test_a_worker_stops_while_functions_hang(
    sql: Connection, start_worker: StartWorker, let_go: threading.Event
) -> None:
    """Nothing that stopping does needs one of these threads."""
    begun = threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        let_go.wait(60)

    @agent("hangs")
    async def hangs(context: Context, text: str) -> None:
        await asyncio.gather(*(asyncio.to_thread(hang) for _ in range(3)))

    worker = await start_worker(hangs, worker_concurrency=2)
    await submit(sql, "x", agent="hangs")
    for _ in range(2):
        await until(lambda: begun.acquire(blocking=False))
    worker.stop()
    worker.stop()
    await until(lambda: sql.fetchval("select count(*) from treadle.workers"), lambda count: count == 0)
    assert await sql.fetchval("select losses from treadle.messages") == 0


async def test_a_loop_that_was_held_costs_no_other_attempt_its_time(sql: Connection, start_worker: StartWorker) -> None:
    """An answer that came in time is read only after the loop was held, together with the end of the time."""
    runs, waits, held = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent("waits", timeout=1.0, max_attempts=1)
    async def waits_(context: Context, text: str) -> str:
        waits.set()
        await held.wait()
        for _ in range(20):  # turns of the loop: what it has to do after its answer
            await asyncio.sleep(0)
        return "in time"

    @agent("holds", max_attempts=1)
    async def holds(context: Context, text: str) -> None:
        runs.set()
        await waits.wait()
        held.set()
        threading.Event().wait(2.5)

    await start_worker(waits_, holds)
    await submit(sql, "x", agent="holds")
    await wait_for(runs)  # so that it holds the loop as soon as the other one waits
    neighbour = await submit(sql, "x", agent="waits")
    message = await settled(sql, neighbour)
    assert (message["state"], message["result"]) == ("completed", "in time")
