"""Programs in tests/support/node with the unmodified clients of npm, run by Node 22."""

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.support.programs import TOOLS, node22


def play(name: str, **given: Any) -> Coroutine[Any, Any, Any]:
    """What the program tells as JSON. Like `run_program`, it looks for Node when it is called."""
    source = Path(__file__).with_name("node").joinpath(f"{name}.mjs").read_text(encoding="utf-8")
    return _told(run_program(source, **given))


def run_program(source: str, **given: Any) -> Coroutine[Any, Any, str]:
    """What a program writes. Its packages are those of .tools/node.

    A test without Node is skipped by this call, in the task of the test: in a task of its own the program would end
    alone, and the test would wait for it.
    """
    return _run(node22(), source, given)


async def _told(said: Coroutine[Any, Any, str]) -> Any:
    return json.loads(await said)


async def _run(program: str, source: str, given: dict[str, Any]) -> str:
    process = await asyncio.create_subprocess_exec(
        *(program, "--input-type=module", "-"),
        cwd=TOOLS / "node",
        env={**os.environ, "TREADLE_SCENES": json.dumps(given)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, errors = await process.communicate(source.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return said.decode()
