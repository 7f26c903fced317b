"""An owner of batches, such as a tenant, has one of them in flight."""

import asyncio
from collections.abc import Sequence

from service.batching import Batcher
from tests.support.waiting import until


async def test_an_owner_has_one_batch_in_flight_and_no_task_for_what_waits_behind_it() -> None:
    """Each further task would look through all that waits."""
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def run(batch: Sequence[int], patient: bool) -> list[int]:
        batches.append(list(batch))
        await gate.wait()
        return [item * 2 for item in batch]

    batcher = Batcher(run, limit=10, calls=2, group_by=lambda item: item, owned_by=lambda item: item % 2)
    tasks = [asyncio.create_task(batcher.submit(0))]
    await until(lambda: batches == [[0]])
    tasks += [asyncio.create_task(batcher.submit(item)) for item in (2, 4, 2)]
    await asyncio.sleep(0)
    assert (len(batcher._drivers), batches) == (1, [[0]])
    tasks += [asyncio.create_task(batcher.submit(1))]
    await until(lambda: batches == [[0], [1]])
    gate.set()
    assert await asyncio.gather(*tasks) == [0, 4, 8, 4, 2]
    assert batches == [[0], [1], [2, 2], [4]]
