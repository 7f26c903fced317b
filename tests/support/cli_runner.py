"""What tests of the command line share: to run `treadle` as a person does, and how what it says must look."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from click.testing import CliRunner, Result

from service.cli import main
from service.config import Settings

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "01890a5d-ac96-774b-bcce-b302099a8057"

Cli = Callable[..., Awaitable[Result]]


async def call(*arguments: str, **settings: str) -> Result:
    """Run a command beside the test's loop; settings by name are its environment."""
    environ = {field.name.upper(): None for field in msgspec.structs.fields(Settings)}
    environ |= {"TREADLE_CONFIG": None, "POLL_INTERVAL": "0.2", **settings}
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=environ)


def treadle(dsn: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what its children print is seen only there."""
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": dsn, **settings}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


def sentence(result: Result, exit_code: int = 1) -> str:
    """What a failed command said: one sentence on stderr and nothing else, with that exit code."""
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
    said = result.stderr.removeprefix("Error: ").removesuffix("\n")
    assert "\n" not in said
    assert said.endswith(".")
    return said
