"""What remote workers do is in the metrics and the log of the API that they call, once."""

import json
import logging
from typing import Any

import pytest

from service import life_log, logs
from service.db.pool import Connection
from service.metrics.process import ProcessMetrics
from tests.support.fixture_types import StartApi
from tests.support.remote_worker import RemoteWorker
from tests.support.waiting import until

SEND = {"name": "s", "message": "y", "agent": "sleeper"}
STEP = {"type": "step", "data": {"name": "paid", "result": 1}}


def counts(metrics: ProcessMetrics) -> dict[tuple[str, ...], float]:
    """By name without `treadle_`, and the values of the labels by their names; of a histogram the number of its
    observations."""
    return {
        (sample.name.removeprefix("treadle_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name.endswith(("_total", "_count")) and sample.value
    }


async def run_some(remote: RemoteWorker, sql: Connection) -> list[str]:
    """Three messages: completed with all that can be repeated repeated, retried and then failed, and lost."""
    api = remote.api
    await RemoteWorker(api).register("sleeper")
    completed = await api.submit("x", agent="shout")
    await remote.claim()
    before = dict(remote.claimed[completed])
    await remote.append(completed, "HEL", "LO")
    remote.claimed[completed] = before
    await remote.append(completed, "HEL", "LO")  # its answer was lost
    lease = {name: before[name] for name in ("message_id", "lease")}
    for _ in range(2):
        await remote.call("append", **lease, first_seq=5, events=[STEP], sends=[SEND])
    remote.claimed[completed]["last_seq"] = 5
    for _ in range(2):
        await remote.finish(completed, result="HELLO", usage={"input_tokens": 7}, events=[{"type": "note", "data": 1}])
    failed = await api.submit("x", agent="shout", thread_id="t")
    await remote.claim()
    await remote.finish(failed, "retry", error="Again.", retry_after=0)
    await until(lambda: sql.fetchval("select treadle.admit_due()"), lambda answer: answer[0] == 1)
    await remote.claim()
    await remote.finish(failed, "failed", error="No.", events=[{"type": "chunk", "data": {"chunk": "n", "index": 0}}])
    lost = await api.submit("x", agent="shout")
    await remote.claim()
    await api.delete(f"/messages/{lost}")
    assert (await remote.finish(lost, "failed", error="Cancelled.")).json()["state"] == "cancelled"
    remote.claimed[lost]["attempt"] = 9  # of another life
    for _ in range(2):
        assert (await remote.finish(lost, result="late")).status_code == 409
    return [completed, failed, lost]


async def test_the_api_counts_what_remote_workers_do_once(start_api: StartApi, sql: Connection) -> None:
    remote = RemoteWorker(await start_api())
    await remote.register("shout")
    metrics = ProcessMetrics(more_agents=1)
    with metrics.listening():
        await run_some(remote, sql)
    found = counts(metrics)
    of_agent = ("shout", "remote")
    assert found["messages_claimed_total", "remote"] == 4
    assert found["message_wait_seconds_count", *of_agent] == 3
    assert found["first_chunk_seconds_count", *of_agent] == 2
    assert found["events_written_total",] == 5
    assert found["attempts_total", "shout", "completed", "remote"] == 1
    assert found["attempts_total", "shout", "error", "remote"] == 1
    assert found["attempts_total", "shout", "rejected", "remote"] == 2
    assert found["attempt_run_seconds_count", *of_agent] == 4
    for state in ("completed", "failed", "cancelled"):
        assert found["messages_finished_total", *of_agent, state] == 1
    assert found["tokens_total", "shout", "input", "remote"] == 7
    assert found["retries_total", "shout", "error", "remote"] == 1
    assert found["leases_lost_total", "remote"] == 1


async def test_agents_beyond_a_number_share_a_label(start_api: StartApi) -> None:
    remote = RemoteWorker(await start_api())
    await remote.register("shout", "whisper")
    metrics = ProcessMetrics(more_agents=1)
    with metrics.listening():
        for agent in ("shout", "whisper", "shout"):
            message_id = await remote.api.submit("x", agent=agent)
            await remote.claim()
            await remote.finish(message_id, result=1)
    found = counts(metrics)
    assert found["messages_finished_total", "shout", "remote", "completed"] == 2
    assert found["messages_finished_total", "other", "remote", "completed"] == 1


async def test_the_life_of_a_remote_message_is_in_the_log(
    start_api: StartApi, sql: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    logs.configure("info", "json")
    try:
        with life_log.writing():
            remote = RemoteWorker(await start_api())
            await remote.register("shout")
            ids = await run_some(remote, sql)
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    said: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    lives = [
        [line["message"] for line in said if line["logger"] == "service.life_log" and line["message_id"] == one]
        for one in ids
    ]
    assert lives == [
        ["submitted", "started", "completed"],
        ["submitted", "started", "retried", "started", "failed"],
        ["submitted", "started", "cancel requested", "cancelled"],
    ]
    [failed] = [line for line in said if line["message"] == "failed"]
    assert (failed["agent"], failed["queue"], failed["attempt"], failed["tenant"]) == ("shout", "remote", 2, "default")
