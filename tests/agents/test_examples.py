"""The examples of adapters answer, and docs/agents/*.md show them unchanged."""

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from service.agents import registry
from service.config import Settings
from service.db.pool import Connection
from tests.support.documents import AGENTS, blocks
from tests.support.fixture_types import StartWorker
from tests.support.inputs import asked_input, give_input
from tests.support.messages import log, run, settled, submit, text
from tests.support.ports import free_port, is_listening
from tests.support.repository import ROOT
from tests.support.waiting import until
from treadle import Agent

SHOWN_BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{block.line}")
    for page in AGENTS
    for block in blocks(page)
    if block.language.startswith("python examples/")
]


def load(name: str, agent: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent of an example, imported as a worker does."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = registry.load(msgspec.structs.replace(settings, agents=(name,))).get(agent)
    monkeypatch.delitem(sys.modules, name)
    assert found is not None
    return found


@pytest.mark.parametrize("block", SHOWN_BLOCKS)
def test_a_shown_example_is_a_part_of_its_file(block: Any) -> None:
    file = (ROOT / block.language.partition(" ")[2]).read_text(encoding="utf-8")
    assert block.text in file or textwrap.indent(block.text, "    ") in file


def test_every_adapter_page_shows_its_example() -> None:
    pages = {str(shown.id).partition("-")[0] for shown in SHOWN_BLOCKS}
    assert pages == {"autogen", "claude", "http", "langgraph"}


@pytest.mark.parametrize("durable", [False, True], ids=["without", "with checkpoints"])
async def test_the_graph_example_answers(
    sql: Connection,
    settings: Settings,
    dsn: str,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    durable: bool,
) -> None:
    if durable:
        async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
            await saver.setup()
        monkeypatch.setenv("CHECKPOINTS", dsn)
    await start_worker(load("examples.graph", "haiku", settings, monkeypatch))
    row = await run(sql, "bicycles", agent="haiku")
    assert row["result"].startswith("bicycles in the rain\n")
    assert await text(sql, row["message_id"]) == row["result"]
    if durable:
        assert await sql.fetchval("select count(*) from checkpoints where thread_id = $1", str(row["message_id"])) > 0


async def test_the_team_example_answers(
    sql: Connection, settings: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker(load("examples.team", "slogan", settings, monkeypatch))
    for _ in range(2):  # the second run sees the first exchange
        row = await run(sql, "A slogan for a bicycle shop", agent="slogan", thread_id="t")
        assert row["result"] == "Two wheels. Enough."
        assert await text(sql, row["message_id"]) == "Two wheels are enough.Two wheels. Enough."
        said = [entry.data["source"] for entry in await log(sql, row["message_id"]) if entry.type == "message"]
        assert said == ["user", "writer", "critic", "writer", "critic"]


async def test_the_graph_example_asks_a_person(
    sql: Connection, settings: Settings, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
    monkeypatch.setenv("CHECKPOINTS", dsn)
    await start_worker(load("examples.graph", "poem", settings, monkeypatch))
    message_id = await submit(sql, "bicycles", agent="poem")
    assert (await asked_input(sql, message_id))["question"] == "What is its title?"
    await give_input(sql, message_id, "Patience")
    assert (await settled(sql, message_id))["result"].startswith("Patience\n\nbicycles in the rain\n")


async def test_the_team_example_asks_a_person(
    sql: Connection, settings: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker(load("examples.team", "reviewed", settings, monkeypatch))
    for _ in range(2):  # the second run sees the first exchange
        message_id = await submit(sql, "A slogan for a bicycle shop", agent="reviewed", thread_id="t")
        assert (await asked_input(sql, message_id))["question"] == "Two wheels are enough."
        await give_input(sql, message_id, "APPROVE")
        assert (await settled(sql, message_id))["result"] == "Two wheels are enough."


@pytest.fixture
async def counter(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The server of examples/remote.py, as a person starts it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    monkeypatch.setenv("COUNTER_PORT", str(port))
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "examples" / "remote.py"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: is_listening(port))
        yield
    finally:
        server.kill()
        await server.wait()


@pytest.mark.usefixtures("counter")
async def test_the_server_example_answers(
    sql: Connection, settings: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker(load("examples.remote", "counter", settings, monkeypatch))
    row = await run(sql, "one two three", agent="counter")
    assert (row["state"], row["result"]) == ("completed", 3)
    assert await text(sql, row["message_id"]) == "1 one 2 two 3 three "
