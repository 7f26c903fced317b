"""What a message used: per step and attempt, and added."""

import asyncio
from typing import Any

import pytest

from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run
from treadle import Context, agent


@agent("counts", max_attempts=3)
async def counts(context: Context, text: str) -> str:
    """Fails once after two steps that run side by side."""

    async def paid(tokens: int) -> None:
        context.usage(tokens=1)
        await asyncio.sleep(0)
        context.usage(tokens=tokens, model=f"m{tokens}")

    await asyncio.gather(*(context.step(f"step {n}", lambda n=n: paid(n)) for n in (10, 20)))  # type: ignore[misc]
    context.usage(tokens=1)
    context.usage(tokens=2, attempt=context.attempt)
    if context.attempt == 1:
        raise RuntimeError("again")
    return text


@agent("counts", max_attempts=3)
def counts_sync(context: Any, text: str) -> str:
    """The same in a thread."""
    for tokens in (10, 20):
        context.step(f"step {tokens}", lambda tokens=tokens: context.usage(tokens=tokens, model=f"m{tokens}"))
    context.usage(tokens=2, attempt=context.attempt)
    if context.attempt == 1:
        raise RuntimeError("again")
    return text


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_numbers_of_steps_and_attempts_are_added(way: str, sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(counts if way == "async" else counts_sync)
    row = await run(sql, "x", agent="counts")
    assert row["attempt"] == 2
    last = row["usage"].pop("model")  # of the step that ended last: either, where they run side by side
    assert last in ({"m10", "m20"} if way == "async" else {"m20"})
    assert row["usage"] == {"tokens": 10 + 20 + 2 + 2, "attempt": 1 + 2}
    steps = {
        entry.data["name"]: entry.data["usage"] for entry in await log(sql, row["message_id"]) if entry.type == "step"
    }
    assert steps == {"step 10": {"tokens": 10, "model": "m10"}, "step 20": {"tokens": 20, "model": "m20"}}
