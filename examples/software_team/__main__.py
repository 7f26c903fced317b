"""Run the team: `python -m examples.software_team`. It starts Treadle with a PostgreSQL of its own, and stops both."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.software_team.story import tell
from treadle.client import AsyncClient

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def talk(url: str) -> None:
    async with AsyncClient(url) as client:
        await client.health()  # repeated until the server is there
        while "compensator" not in {agent.agent for agent in await client.agents()}:  # noqa: ASYNC110 - of a worker
            await asyncio.sleep(0.2)
        await tell(client, lambda line: print(line, flush=True))


def main() -> None:
    if url := os.environ.get("TREADLE_URL"):  # a server that runs, with AGENTS=examples.software_team.agents
        asyncio.run(talk(url))
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="treadle-team-") as home:
        os.chmod(home, 0o755)  # started by root, PostgreSQL runs as another user
        environ = {
            **os.environ,
            "TREADLE_HOME": f"{home}/data",
            "PORT": str(port),
            "AGENTS": "examples.software_team.agents",
            "LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "service.cli", "up"]
        server = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            asyncio.run(talk(f"http://127.0.0.1:{port}"))
        finally:
            server.terminate()  # graceful: what runs is ended, or given back
            print(f"stopped          exit code {server.wait(60)}")


if __name__ == "__main__":
    main()
