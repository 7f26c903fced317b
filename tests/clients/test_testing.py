"""treadle.testing: the fixtures work from an empty folder, and the page shows code that runs."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.documents import DOCS, blocks
from tests.support.repository import ROOT
from treadle.testing import FakeContext

MORE = """
import pytest

from treadle import Context, RetryAfter, agent

@agent("child")
async def child(context: Context, text: str) -> str:
    return text * 2

@agent("parent", queue="own")
def parent(context, text: str) -> dict:
    if context.attempt == 1:
        raise RetryAfter(0)
    yes = context.input("sure?", name="sure")
    [result] = context.gather(context.send(text, agent="child"))
    return {"yes": yes, "result": result}

def test_a_function_can_run_agents(treadle_run):
    answer = treadle_run.sync(parent, "ab", others=[child], inputs={"sure": True})
    assert answer.result == {"yes": True, "result": "abab"}, answer
    assert answer.error is None

@agent("planner", topics=["plan.in"], max_attempts=1)
async def planner(context: Context, goal: dict) -> None:
    record = context.metadata["record"]
    await context.publish("plan.out", {"of": goal["goal"]}, key=record["key"])

async def test_agents_read_topics(treadle_run):
    await treadle_run.topics("plan.in", "plan.out")
    await treadle_run.publish("plan.in", {"goal": "x"}, key="k", agents=[planner])
    [plan] = await treadle_run.records("plan.out")
    assert (plan.offset, plan.key, plan.value) == (0, "k", {"of": "x"})
    await treadle_run.publish("plan.in", {"other": 1}, key="k")
    await treadle_run.publish("plan.in", {"goal": "y"}, key="k")
    await treadle_run.records("plan.out", 2)  # of the last one, which runs when the one before it has failed
    with pytest.raises(TimeoutError, match="plan.out has 2 of 3 records; planner failed: KeyError"):
        await treadle_run.records("plan.out", 3, timeout=0.5)

def test_each_test_has_its_own_database(treadle_run, treadle_dsn):
    assert treadle_run.sync(child, "x", thread_id="t").result == "xx"
"""


async def run_pytest(folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
        *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode()


@pytest.mark.long
async def test_the_page_runs_from_an_empty_folder(tmp_path: Path) -> None:
    for block in blocks(DOCS / "testing.md", "python"):
        name = re.match(r"# (\w+\.py)\n", block.text)
        assert name is not None
        (tmp_path / name[1]).write_text(block.text)
    (tmp_path / "test_more.py").write_text(MORE)
    output = await run_pytest(tmp_path)
    assert re.search(r"\b7 passed\b", output), output


async def test_the_fake_context_refuses_what_the_real_one_does() -> None:
    context = FakeContext(steps={"a": 1}, results={"child": ValueError("no")})
    assert await context.step("a", lambda: 2) == 1
    with pytest.raises(ValueError, match="already begun"):
        await context.step("a", lambda: 2)
    with pytest.raises(TypeError, match="emit takes text"):
        await context.emit(1)  # type: ignore[arg-type]
    assert [type(error) for error in await context.gather("child", return_exceptions=True)] == [ValueError]
    with pytest.raises(ValueError, match="no"):
        await context.gather("child")
    for call in (context.gather("other"), context.input("why?")):
        with pytest.raises(AssertionError, match="FakeContext"):
            await call
    context.cancel()
    with pytest.raises(asyncio.CancelledError):
        await context.send("x")
