"""Workers as real processes, killed and stopped, with agents in processes of their own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.config import Settings
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.gates import open_gate
from tests.support.messages import dead_letter, log, overview, settled, submit, submit_many, types
from tests.support.waiting import until
from tests.support.worker_processes import (
    SOON_LOST,
    WorkerProcesses,
    agent_process,
    emitted_text,
    exit_code,
    processes_ended,
    submit_lost,
)


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[WorkerProcesses]:
    processes = WorkerProcesses(settings, tmp_path / "log")
    yield processes
    processes.end()


async def test_a_message_that_kills_its_worker_is_charged_alone_afterwards(
    sql: Connection, processes: WorkerProcesses, tmp_path: Path
) -> None:
    first = await processes.start(sql)
    door = tmp_path / "door"
    neighbours = await submit_many(sql, [{"message": str(door), "agent": "stays"}] * 5)
    for neighbour in neighbours:
        await emitted_text(sql, neighbour)
    [poison] = await submit_many(sql, [{"message": "exit", "agent": "dies"}])
    assert await exit_code(first) == 3
    second = await processes.start(sql)
    message = await settled(sql, poison)
    assert (message["state"], message["failures"], message["losses"]) == ("failed", 0, 3)
    assert (await dead_letter(sql, poison))["reason"] == "The agent's process ended with exit code 3."
    open_gate(door)
    for neighbour in neighbours:
        message = await settled(sql, neighbour)
        assert (message["state"], message["failures"], message["losses"]) == ("completed", 0, 1)
        assert message["attempt"] == 2
    await sql.fetchval("select treadle.redrive($1)", poison)  # its losses still count
    message = await settled(sql, poison)
    assert (message["state"], message["failures"], message["losses"]) == ("failed", 0, 3)
    assert second.poll() is None


async def test_a_killed_worker_takes_its_children_with_it(sql: Connection, processes: WorkerProcesses) -> None:
    worker = await processes.start(sql)
    pids = set()
    for how in ("listens", "blocks", "computes"):
        pids |= set(map(int, (await emitted_text(sql, await submit_lost(sql, how, agent="stays"))).split()))
    assert len(pids) == 4  # three children of one fork server
    worker.kill()
    await processes_ended(*pids)


async def test_a_stopped_worker_hands_back_messages_in_processes(sql: Connection, processes: WorkerProcesses) -> None:
    worker = await processes.start(sql, SHUTDOWN_GRACE="0.1")
    ids = [await submit_lost(sql, how, agent="stays", max_attempts=1) for how in ("listens", "blocks")]
    children = [await agent_process(sql, message_id) for message_id in ids]
    worker.terminate()
    assert await exit_code(worker) == 0
    await processes_ended(*children)
    for message_id in ids:
        message = await overview(sql, message_id)
        assert (message["state"], message["attempt"]) == ("queued", 2)
        assert (message["failures"], message["losses"]) == (0, 1)
        assert (await log(sql, message_id))[-1].data["error"] == "The worker was stopped."


async def test_children_ignore_signals_to_the_process_group(
    sql: Connection, processes: WorkerProcesses, tmp_path: Path
) -> None:
    """Ctrl-C and a service manager signal every process of a group."""
    worker = await processes.start(sql, SHUTDOWN_GRACE="1000")
    door = tmp_path / "door"
    message_id = await submit_lost(sql, str(door), agent="stays")
    child, forkserver = map(int, (await emitted_text(sql, message_id)).split())
    for pid in (child, forkserver):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    worker.terminate()
    open_gate(door)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["losses"]) == ("completed", 2, 1)
    assert await exit_code(worker) == 0
    await processes_ended(child, forkserver)


async def test_after_a_kill_only_the_unfinished_steps_run(
    sql: Connection, processes: WorkerProcesses, tmp_path: Path
) -> None:
    """The worker is killed after the third of five steps; the agent records which step ran in which process."""
    worker = await processes.start(sql)
    notes = tmp_path / "notes"
    message_id = await submit(sql, str(notes), agent="steps")
    await until(lambda: types(sql, message_id), lambda found: found.count("step") == 3)
    worker.kill()
    open_gate(tmp_path / "notes.go")
    await processes.start(sql)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["losses"]) == ("completed", 2, 1)
    assert message["result"] == ["0", "1", "2", "3", "4"]
    ran = [line.split() for line in notes.read_text().splitlines()]
    assert [step for step, _ in ran] == ["0", "1", "2", "3", "4"]
    assert len({pid for _, pid in ran[:3]}) == len({pid for _, pid in ran[3:]}) == 1
    assert ran[0][1] == str(worker.pid) != ran[3][1]


async def test_an_agent_that_holds_the_gil_costs_its_neighbours_no_loss(
    sql: Connection, processes: WorkerProcesses, tmp_path: Path
) -> None:
    """The heartbeats, without which a janitor would reap it, go on for longer than its WORKER_TIMEOUT."""
    holder = await processes.start(sql, WORKER_TIMEOUT=f"{SOON_LOST:g}")
    door, gate = tmp_path / "door", tmp_path / "gate"
    neighbours = await submit_many(sql, [{"message": str(door), "agent": "stays"}] * 3)
    for neighbour in neighbours:
        await emitted_text(sql, neighbour)
    [guilty] = await submit_many(sql, [{"message": str(gate), "agent": "holds"}])
    await until(gate.exists)
    held_at = await sql.fetchval("select treadle.clock()")
    open_gate(door)
    seconds = "select extract(epoch from heartbeat_at - $1) from treadle.workers"
    await until(lambda: sql.fetchval(seconds, held_at), lambda since: since > SOON_LOST)
    open_gate(gate)
    for message_id in (guilty, *neighbours):
        message = await settled(sql, message_id)
        assert (message["state"], message["attempt"], message["losses"]) == ("completed", 1, 0)
    assert "its stand-in sends the heartbeats" in (tmp_path / "log").read_text()
    assert holder.poll() is None


async def test_a_stopped_worker_loses_its_messages(
    sql: Connection, processes: WorkerProcesses, tmp_path: Path, start_worker: StartWorker
) -> None:
    """Its stand-in does not stand in for a process that is stopped: its messages are for other workers."""
    stopped = await processes.start(sql, WORKER_TIMEOUT=f"{SOON_LOST:g}")
    door = tmp_path / "door"
    [message_id] = await submit_many(sql, [{"message": str(door), "agent": "stays"}])
    await emitted_text(sql, message_id)
    await start_worker(queues=("elsewhere",), worker_timeout=SOON_LOST)
    os.kill(stopped.pid, signal.SIGSTOP)
    await until(lambda: overview(sql, message_id), lambda row: row["losses"] == 1)
    os.kill(stopped.pid, signal.SIGCONT)
    open_gate(door)
    assert (await settled(sql, message_id))["state"] == "completed"


async def test_a_stand_in_ends_with_its_worker(sql: Connection, processes: WorkerProcesses) -> None:
    worker = await processes.start(sql)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    [stand_in] = await until(lambda: [*map(int, children.read_text().split())])
    worker.kill()
    await processes_ended(stand_in)


async def test_an_agent_that_closes_stderr_ends_no_worker(sql: Connection, processes: WorkerProcesses) -> None:
    worker = await processes.start(sql)
    for _ in range(2):  # each attempt is told in the log
        [message_id] = await submit_many(sql, [{"message": "x", "agent": "closes stderr"}])
        message = await settled(sql, message_id)
        assert (message["state"], message["attempt"]) == ("completed", 1)
    worker.terminate()
    assert await exit_code(worker) == 0


async def test_a_message_that_cancels_all_tasks_of_its_worker_is_charged(
    sql: Connection, processes: WorkerProcesses
) -> None:
    """Given back without a loss, it would end each worker that claims it, for ever."""
    first = await processes.start(sql)
    [message_id] = await submit_many(sql, [{"message": "x", "agent": "cancels all"}])
    assert await exit_code(first) == 1
    await processes.start(sql)
    assert (await settled(sql, message_id))["losses"] > 0
