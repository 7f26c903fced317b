"""Run commands of `treadle`, and check the form of their error messages."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from service.cli import main
from service.config import Settings
from tests.support.databases import patient
from tests.support.repository import ROOT
from tests.support.waiting import LIMIT_SECONDS

Cli = Callable[..., Coroutine[Any, Any, Result]]


async def invoke(*arguments: str, stdin: str | None = None, **settings: str) -> Result:
    """Run a command beside the test's loop; settings by name are its environment."""
    environ: dict[str, str | None] = {field.name.upper(): None for field in msgspec.structs.fields(Settings)}
    environ |= {"TREADLE_CONFIG": None, "POLL_INTERVAL": "0.2", **settings}
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), input=stdin, env=environ)


def run_treadle(dsn: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, so that the output of its children is captured too."""
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": patient(dsn), **settings}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )


def error_sentence(result: Result, exit_code: int = 1) -> str:
    """The error of a failed command: one sentence on stderr and nothing else, with that exit code."""
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
    said = result.stderr.removeprefix("Error: ").removesuffix("\n")
    assert "\n" not in said
    assert said.endswith(".")
    return said
