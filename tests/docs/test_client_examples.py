"""The pages about clients, run as written."""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.documents import DOCS, blocks
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.node_client import run_program
from treadle import AsyncClient

# Clients that name no limit give up after five seconds, which a busy machine may need for an answer.
PATIENT_HTTPX = """
from httpx._config import DEFAULT_TIMEOUT_CONFIG as limits
limits.connect = limits.read = limits.write = limits.pool = 60.0
"""


async def test_the_python_page_runs_as_written(api_with_worker: Client, dsn: str) -> None:
    code = "\n".join(block.text for block in blocks(DOCS / "clients" / "python.md", "python"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code.replace('"http://localhost:8000"', ""),
        env={**os.environ, "TREADLE_URL": str(api_with_worker.base_url), "DATABASE_URL": dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (output.decode(), errors.decode()) == (
        "hello\none two three\ngood day\n{'number': 0}\nThank the buyer.\n['chat', 'order-1', 'tour']\n",
        "",
    )


async def test_the_page_of_openai_runs_as_written(start_api: StartApi, start_worker: StartWorker) -> None:
    page = DOCS / "clients" / "openai.md"
    [declared] = blocks(page, "python agent")
    names: dict[str, Any] = {}
    exec(declared.text, names)
    await start_worker(echo, names["traveller"])
    api = await start_api()
    code = "\n".join(block.text for block in blocks(page, "python"))
    code = code.replace("http://localhost:8000", str(api.base_url))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert (output.decode().splitlines(), errors.decode()) == (
        ["hello", "hello again", "one two three", 'get_weather {"city":"Rome"}', "Sun in Rome"],
        "",
    )


async def test_the_pages_of_clients_of_openai_run_as_written(start_api: StartApi, start_worker: StartWorker) -> None:
    """Those in Python run in one process, because their imports take long."""
    pages = [DOCS / "clients" / f"{name}.md" for name in ("langchain", "openai-agents", "pydantic-ai")]
    of_node = [DOCS / "clients" / f"{name}.md" for name in ("openai-node", "vercel-ai")]
    [declared] = blocks(DOCS / "clients" / "openai.md", "python agent")
    names: dict[str, Any] = {}
    exec(declared.text, names)
    await start_worker(echo, names["traveller"])
    url = str((await start_api()).base_url)

    def code(page: Path, language: str) -> str:
        return "\n".join(block.text for block in blocks(page, language)).replace("http://localhost:8000", url)

    def shown(page: Path) -> str:
        [text] = blocks(page, "text")
        return text.text

    runs = "".join(f"exec({code(page, 'python')!r}, {{}})\n" for page in pages)
    said = [asyncio.create_task(run_program(code(page, "js"))) for page in of_node]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", runs, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert (output.decode(), errors.decode()) == ("".join(map(shown, pages)), "")
    assert [await one for one in said] == [shown(page) for page in of_node]


async def test_the_page_of_langgraph_runs_as_written(start_api: StartApi, start_worker: StartWorker) -> None:
    page = DOCS / "clients" / "langgraph.md"
    [declared] = blocks(page, "python agent")
    names: dict[str, Any] = {}
    exec(declared.text, names)
    await start_worker(echo, names["confirming"])
    api = await start_api()
    code = "\n".join(block.text for block in blocks(page, "python"))
    code = code.replace("http://localhost:8000", str(api.base_url))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert (output.decode().splitlines(), errors.decode()) == (
        ["hello", "two three", "Send it?", "sent: yes", "Send it?", "pizza [['users', 'eve']]"],
        "",
    )


async def test_the_page_of_a2a_runs_as_written(api_with_worker: Client, sql: Connection) -> None:
    await sql.execute("select treadle.offer_webhooks()")  # as a worker that delivers does
    page, url = DOCS / "clients" / "a2a.md", str(api_with_worker.base_url).rstrip("/")
    code = "\n".join(block.text for block in blocks(page, "python")).replace("http://localhost:8000", url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PATIENT_HTTPX + code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert errors.decode() == ""
    assert re.fullmatch("one two three\ntask [0-9a-f-]{36}\n", output.decode())
    [code] = [block.text for block in blocks(page, "js")]
    assert await run_program(code.replace("http://localhost:8000", url)) == "hello\n"


async def test_the_page_of_agui_runs_as_written(api_with_worker: Client) -> None:
    code = "\n".join(block.text for block in blocks(DOCS / "clients" / "ag-ui.md", "js"))
    said = await run_program(code.replace("http://localhost:8000", str(api_with_worker.base_url).rstrip("/")))
    assert said == "one two three\nstill here\n"


def test_the_page_lists_every_call() -> None:
    text = (DOCS / "clients" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in dir(AsyncClient) if not name.startswith("_") and f"`{name}`" not in text]
    assert missing == ["close"]


async def test_the_protocol_of_remote_workers_runs_as_written(api_with_worker: Client) -> None:
    page = DOCS / "remote-workers.md"
    [script], [shown] = blocks(page, "sh"), blocks(page, "text")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eu", "-o", "pipefail", "-c"),
        script.text.replace("http://localhost:8000", str(api_with_worker.base_url).rstrip("/")),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert re.sub(r'"message_id":"[^"]*"', '"message_id":"..."', output.decode()) == shown.text
