"""No log has what people and models write, nor a secret: that of the API, and that of a worker with each adapter, also
in an agent's own process. LOG_LEVEL is debug.

It takes some seconds: the worker imports all frameworks, and so does the fork server of the agents' own processes.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import httpx

from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fake_anthropic import FakeAnthropic, Status
from tests.support.messages import settled, submit
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.waiting import until
from tests.support.websocket_client import chat_url, open_socket
from tests.support.worker_processes import WorkerProcesses, submit_lost

MARKER = "xyzzy-9f27"
FAILING = f"fail: {MARKER}"
SECRET = "trd_1234abcd_TOPSECRET"
AGENTS = ("plain", "graph", "assistant", "pair")  # of tests.support.talkative_agents: FAILING makes them fail


@contextlib.asynccontextmanager
async def api_process(settings: Settings, log: Path) -> AsyncIterator[Client]:
    port = free_port()
    environ = {"DATABASE_URL": str(settings.database_url), "PORT": str(port), "LOG_LEVEL": "debug"}
    with log.open("ab") as file:
        command = [sys.executable, "-m", "service.cli", "serve"]
        process = subprocess.Popen(command, env={"PYTHONPATH": str(ROOT), **environ}, stderr=file)  # noqa: ASYNC220

        async def answers(client: Client) -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return (await client.get("/health/live")).status_code == 200
            return False

        try:
            async with Client(f"http://127.0.0.1:{port}") as client:
                await until(lambda: answers(client), seconds=60)
                yield client
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


async def test_workers_log_no_texts_and_no_secrets(sql: Connection, settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = WorkerProcesses(settings, log)
    async with FakeAnthropic().running() as fake:
        try:
            await processes.start(
                sql,
                LOG_LEVEL="debug",
                AGENTS="tests.support.talkative_agents",
                TEST_URL=f"{fake.url}/agent?token={SECRET}",
                ANTHROPIC_API_KEY=f"sk-ant-{SECRET}",
                ANTHROPIC_BASE_URL=fake.url,
            )
            for name in AGENTS:
                assert (await outcome(sql, await submit(sql, MARKER, agent=name))) == "completed"
                assert (await outcome(sql, await submit(sql, FAILING, agent=name))) == "failed"
            for name in ("graph", "pair"):
                assert (await outcome(sql, await submit_lost(sql, FAILING, agent=name))) == "failed"
            for name in ("claude", "remote"):
                fake.script.append(Status(400, "invalid_request_error", f"{MARKER} is bad"))
                assert (await outcome(sql, await submit(sql, MARKER, agent=name))) == "failed"
            assert (await outcome(sql, await submit(sql, MARKER, agent="claude"))) == "completed"
        finally:
            processes.end()
    check(log.read_text(), "worker started")


async def test_an_api_logs_no_texts_and_no_secrets(sql: Connection, settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with api_process(settings, log) as api:
        headers = {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": MARKER}
        body = {"message": MARKER, "metadata": {"text": MARKER}}
        await api.post("/messages", json=body, headers=headers)
        await api.post("/messages", content=f'{{"message": "{MARKER}', headers={"Content-Type": "application/json"})
        await api.post("/messages", json={"message": MARKER, "agent": MARKER})
        for path in ("/threads", "/nope", "/messages/x/stream", "/chat"):
            await api.get(f"{path}?token={SECRET}", headers={"Origin": f"http://{MARKER}"})
            await api.get(f"{path}?token={SECRET}")
        async with open_socket(chat_url(api, "t", token=SECRET)) as chat:
            await chat.send("user_input", text=MARKER)
            await chat.connection.send(MARKER)
            await chat.frame()
    check(log.read_text(), "API started")


async def outcome(sql: Connection, message_id: UUID) -> str:
    return str((await settled(sql, message_id, seconds=60))["state"])


def check(log: str, said: str) -> None:
    assert said in log
    for line in log.splitlines():
        assert MARKER not in line, line
        assert "TOPSECRET" not in line, line
        assert "trd_of_remote" not in line, line
