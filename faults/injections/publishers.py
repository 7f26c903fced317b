"""Faults of publishers: processes that are killed while they publish."""

import asyncio
import sys

from faults.history import Fault
from faults.world import VICTIM_SECONDS, NothingToBreak, World, fault

DOOMED_PROCESSES = 3
MOST_SECONDS = 1.0  # from a publisher's first answer to its death


@fault(weight=3)
async def kill_publishers(world: World, _: Fault) -> None:
    """Processes publish, with and without a transaction that stays open for a while, and are killed with -9."""
    answered = await asyncio.gather(*(_publish_and_die(world) for _n in range(DOOMED_PROCESSES)))
    if not any(answered):
        raise NothingToBreak("no publisher was answered")


async def _publish_and_die(world: World) -> int:
    """How many records were acknowledged before the death. A call without an answer may have published or not."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faults.doomed_publisher", str(world.cluster.primary.port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    lines = []
    try:
        async with asyncio.timeout(VICTIM_SECONDS):
            lines.append(await process.stdout.readline())
        await asyncio.sleep(world.rng.uniform(0, MOST_SECONDS))
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
    rest = (await process.stdout.read()).split(b"\n")[:-1]  # the last line has no end, or is empty
    await process.wait()
    values = [line.decode().strip() for line in [*lines, *rest] if line.strip()]
    world.history.published += values
    return len(values)
