"""docs/topics.md runs as written."""

import asyncio
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from service.db.pool import Connection
from tests.support.cli_runner import Cli
from tests.support.documents import DOCS, Block, blocks
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import LIMIT_SECONDS, until

PAGE = DOCS / "topics.md"
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def under(heading: str, language: str) -> list[Block]:
    return [block for block in blocks(PAGE, language) if block.heading == heading]


def normal(text: str) -> str:
    return TIME.sub("TIME", text).replace('": ', '":').replace(", ", ",").strip()


class Reader:
    """Runs the commands of the page."""

    def __init__(self, cli: Cli, config: Path, url: str) -> None:
        self._cli = cli
        self._config = config
        self._url = url

    async def run(self, block: Block) -> list[str]:
        """The output of each command."""
        return [await self._one(line) for line in block.text.replace("\\\n", "").splitlines()]

    async def declare(self, block: Block) -> None:
        await asyncio.to_thread(self._config.write_text, block.text)

    async def _one(self, line: str) -> str:
        words = shlex.split(line)
        if words[0] == "treadle":
            result = await self._cli(*words[1:], TREADLE_CONFIG=str(self._config))
            assert result.exit_code == 0, f"{line}: {result.output}"
            return str(result.output)
        command = ["bash", "-c", line.replace("localhost:8000", self._url)]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS
        )
        return done.stdout


async def test_the_page_runs_as_written(
    cli: Cli, start_api: StartApi, start_worker: StartWorker, sql: Connection, tmp_path: Path
) -> None:
    reader = Reader(cli, tmp_path / "treadle.yaml", str((await start_api()).base_url).rstrip("/"))
    names: dict[str, Any] = {"__name__": "page"}
    [code] = under("In a minute", "python")
    exec(compile(code.text, "docs/topics.md", "exec"), names)
    [declared] = under("In a minute", "yaml")
    await reader.declare(declared)
    assert "topic plan.out: create" in (await cli("migrate", TREADLE_CONFIG=str(tmp_path / "treadle.yaml"))).output
    await start_worker(names["planner"], names["counter"])
    await until(lambda: sql.fetchval("select count(*) from treadle.subscriptions"), lambda count: count == 2)

    [commands], [shown] = under("In a minute", "sh"), under("In a minute", "text")
    _, printed, lag = await reader.run(commands)
    assert normal(printed) == normal(shown.text)
    assert "counter" in lag
    [curl] = under("Publish", "sh")
    [answer] = await reader.run(curl)
    assert answer.count('"known":false') == 2
    [published] = under("Publish", "sql")
    await sql.execute(published.text)
    await until(lambda: len(names["seen"]), lambda count: count == 8)
    await reader.run(under("Subscriptions", "sh")[0])
    await reader.run(under("Operate", "sh")[0])

    await reader.declare(under("Declare", "yaml")[0])
    foreseen, done = await reader.run(under("Declare", "sh")[0])
    assert foreseen == under("Declare", "text")[0].text
    assert done == f"{foreseen}The database is ready.\n"
