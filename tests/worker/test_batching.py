"""Natural batching: requests that wait together go together, and a faulty item fails alone."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service.batching import RESOLVED_AT_ONCE, Batcher, SharedReads
from service.errors import Busy, Invalid, Unavailable
from service.patience import Patience
from tests.support.waiting import let_the_loop_read, until


class Database:
    """Answers a batch with its items doubled, once the gate is open; records the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.patient: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()

    async def run(self, batch: Sequence[int], patient: bool) -> Sequence[Any]:
        self.batches.append(list(batch))
        self.called.set()
        if patient:
            self.patient += batch
        await self.gate.wait()
        return [self.answer(item, patient) for item in batch]

    def answer(self, item: int, patient: bool) -> Any:
        return item * 2


async def together(batcher: Batcher[int, int], database: Database, items: Sequence[int]) -> list[Any]:
    """Submit a first item, and the others while its batch is in flight; returns the others' outcomes."""
    database.gate.clear()
    first = asyncio.create_task(batcher.submit(0))
    await database.called.wait()
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    database.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert await first == 0
    return results


async def test_items_submitted_during_a_call_go_in_the_next() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=100)
    assert await together(batcher, database, range(1, 50)) == [item * 2 for item in range(1, 50)]
    assert database.batches == [[0], list(range(1, 50))]


async def test_an_idle_batcher_runs_each_item_at_once() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=100)
    assert await batcher.submit(1) == 2
    assert await batcher.submit(2) == 4
    assert database.batches == [[1], [2]]


async def test_a_batch_has_at_most_limit_items() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=10)
    assert await together(batcher, database, range(1, 26)) == [item * 2 for item in range(1, 26)]
    assert [len(batch) for batch in database.batches] == [1, 10, 10, 5]


async def test_the_callers_of_a_large_batch_go_on_in_turns() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=1_000, in_turns=True)
    went_on: list[int] = []

    async def ask(item: int) -> None:
        went_on.append(await batcher.submit(item))

    asking = [asyncio.create_task(ask(item)) for item in range(10 * RESOLVED_AT_ONCE)]
    while (before := len(went_on)) < len(asking):
        await asyncio.sleep(0)
        assert len(went_on) - before <= RESOLVED_AT_ONCE


async def test_a_heavy_item_counts_for_several() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=10, weigh=lambda item: item)
    await together(batcher, database, [4, 4, 4, 100, 1, 9, 1])
    assert database.batches == [[0], [4, 4], [4], [100], [1, 9], [1]]


async def test_a_batch_has_items_of_one_group() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=3, group_by=lambda item: item % 3)
    items = [1, 2, 4, 3, 7, 5, 10, 6, 1]
    assert await together(batcher, database, items) == [item * 2 for item in items]
    assert database.batches == [[0], [1, 4, 7], [2, 5], [3, 6], [10, 1]]


async def test_batches_of_several_groups_may_be_in_flight() -> None:
    database = Database()
    database.gate.clear()
    batcher = Batcher(database.run, limit=10, calls=2, group_by=lambda item: item % 3)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in (0, 1)]
    await until(lambda: len(database.batches) == 2)
    tasks += [asyncio.create_task(batcher.submit(item)) for item in (3, 2, 6, 4)]
    await asyncio.sleep(0)
    assert database.batches == [[0], [1]]
    database.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 6, 4, 12, 8]
    assert sorted(database.batches) == [[0], [1], [2], [3, 6], [4]]
    assert await batcher.submit(5) == 10


async def test_only_the_item_at_fault_fails() -> None:
    class Picky(Database):
        async def run(self, batch: Sequence[int], patient: bool) -> Sequence[Any]:
            results = await super().run(batch, patient)
            if 13 in batch:
                raise Invalid("thirteen")
            return results

    database = Picky()
    batcher = Batcher(database.run, limit=100)
    results = await together(batcher, database, range(1, 21))
    assert isinstance(results.pop(12), Invalid)
    assert results == [item * 2 for item in range(1, 21) if item != 13]
    assert len(database.batches) <= 2 + 2 * 5  # it halves


async def test_an_unexpected_exception_fails_only_its_item() -> None:
    class Broken(Database):
        def answer(self, item: int, patient: bool) -> Any:
            if item == 13:
                raise KeyError("unforeseen")
            return super().answer(item, patient)

    database = Broken()
    results = await together(Batcher(database.run, limit=100), database, range(1, 21))
    assert isinstance(results.pop(12), KeyError)
    assert results == [item * 2 for item in range(1, 21) if item != 13]


@pytest.mark.parametrize("error", [Unavailable("away"), Busy("held", held="acme/")])
async def test_what_all_items_need_fails_the_whole_batch_without_splitting_it(error: Exception) -> None:
    class Away(Database):
        def answer(self, item: int, patient: bool) -> Any:
            if item:
                raise error
            return 0

    database = Away()
    batcher = Batcher(database.run, limit=100)
    results = await together(batcher, database, range(1, 5))
    assert results == [error] * 4
    assert database.batches == [[0], [1, 2, 3, 4]]


async def test_an_exception_among_the_answers_is_raised_for_its_item() -> None:
    class Partly(Database):
        def answer(self, item: int, patient: bool) -> Any:
            return Invalid("odd") if item % 2 else item

    database = Partly()
    results = await together(Batcher(database.run, limit=100), database, [1, 2, 3])
    assert [type(result) for result in results] == [Invalid, int, Invalid]
    assert len(database.batches) == 2


async def test_a_busy_item_runs_alone_beside_the_others() -> None:
    class Locked(Database):
        def __init__(self) -> None:
            super().__init__()
            self.unlocked = asyncio.Event()

        async def run(self, batch: Sequence[int], patient: bool) -> Sequence[Any]:
            if patient:
                self.patient += batch
                await self.unlocked.wait()
                return [item * 2 for item in batch]
            return await super().run(batch, patient)

        def answer(self, item: int, patient: bool) -> Any:
            return Busy("locked") if item == 2 else item * 2

    database = Locked()
    batcher = Batcher(database.run, limit=100, patience=Patience())
    busy = asyncio.create_task(batcher.submit(2))
    assert list(await asyncio.gather(batcher.submit(1), batcher.submit(3))) == [2, 6]
    assert await batcher.submit(4) == 8
    assert not busy.done()
    database.unlocked.set()
    assert await busy == 4
    assert database.patient == [2]


async def test_many_busy_items_are_repeated_together() -> None:
    """A transaction that holds many threads costs no call for each."""

    class Locked(Database):
        def answer(self, item: int, patient: bool) -> Any:
            if len(self.batches) > 1:
                return item * 2
            self.gate.clear()  # the next call waits
            return Busy("locked")

    database = Locked()
    batcher = Batcher(database.run, limit=100, patience=Patience(repetitions=None))
    items = [asyncio.create_task(batcher.submit(item)) for item in range(50)]
    await until(lambda: len(database.batches) == 2 and len(database.batches[1]) + len(batcher._waiting) == 50)
    database.gate.set()
    assert await asyncio.gather(*items) == [2 * item for item in range(50)]
    assert len(database.batches) <= 3


async def test_without_patience_a_busy_item_raises_busy() -> None:
    class Locked(Database):
        def answer(self, item: int, patient: bool) -> Any:
            return Busy("locked")

    database = Locked()
    with pytest.raises(Busy):
        await Batcher(database.run, limit=100).submit(1)
    assert database.batches == [[1]]


async def test_items_that_need_a_held_thing_wait_behind_one_of_them_and_then_go_together() -> None:
    class Locked(Database):
        held = True

        def answer(self, item: int, patient: bool) -> Any:
            return Busy("locked") if item % 2 and self.held else item * 2

    database = Locked()
    batcher = Batcher(database.run, limit=100, patience=Patience(), held_by=lambda item: item % 2)
    first = asyncio.create_task(batcher.submit(1))
    await until(lambda: len(database.batches) > 1)  # it is repeated
    others = [asyncio.create_task(batcher.submit(item)) for item in (3, 5, 7)]
    assert await batcher.submit(2) == 4
    assert {item for batch in database.batches for item in batch} == {1, 2}
    database.held = False
    assert await asyncio.gather(first, *others) == [2, 6, 10, 14]
    assert database.batches[-1] == [3, 5, 7]


async def test_an_item_whose_caller_is_cancelled_runs_only_if_it_has_begun() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=100)
    database.gate.clear()
    cancelled = asyncio.create_task(batcher.submit(1))
    await database.called.wait()
    waiting = [asyncio.create_task(batcher.submit(item)) for item in (2, 3)]
    await asyncio.sleep(0)
    cancelled.cancel()
    waiting[0].cancel()
    await asyncio.wait({cancelled, waiting[0]})
    database.gate.set()
    assert await waiting[1] == 6
    assert database.batches == [[1], [3]]


async def test_a_failure_of_a_cancelled_callers_item_is_not_reported_as_unretrieved() -> None:
    class Failing(Database):
        def answer(self, item: int, patient: bool) -> Any:
            return Invalid("no")

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    database = Failing()
    batcher = Batcher(database.run, limit=100)
    database.gate.clear()
    cancelled = asyncio.create_task(batcher.submit(1))
    await database.called.wait()
    cancelled.cancel()
    database.gate.set()
    with pytest.raises(Invalid):
        await batcher.submit(2)
    assert complaints == []


async def test_too_few_answers_raise_for_every_item() -> None:
    async def short(batch: Sequence[int], patient: bool) -> Sequence[Any]:
        return []

    with pytest.raises(RuntimeError, match="1 items were answered with 0 results"):
        await Batcher(short, limit=100).submit(1)


async def test_an_alone_item_runs_beside_the_batch_in_flight() -> None:
    """It neither joins a batch nor waits for one."""
    database = Database()
    batcher = Batcher(database.run, limit=100, must_run_alone=lambda item: item >= 10)
    database.gate.clear()
    items = [asyncio.create_task(batcher.submit(item)) for item in (1, 10, 2, 11)]
    await database.called.wait()
    await asyncio.sleep(0)
    assert sorted(database.batches) == [[1, 2], [10], [11]]
    assert database.patient == []
    database.gate.set()
    assert await asyncio.gather(*items) == [2, 20, 4, 22]


async def test_alone_items_run_two_at_a_time() -> None:
    database = Database()
    batcher = Batcher(database.run, limit=100, must_run_alone=lambda item: True)
    database.gate.clear()
    items = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
    await database.called.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert database.batches == [[0], [1]]
    database.gate.set()
    assert await asyncio.gather(*items) == [0, 2, 4, 6, 8]


async def test_an_alone_item_that_is_busy_runs_again() -> None:
    class Locked(Database):
        def answer(self, item: int, patient: bool) -> Any:
            return Busy("locked") if len(self.batches) < 3 else item * 2

    database = Locked()
    batcher = Batcher(database.run, limit=100, must_run_alone=lambda item: True, patience=Patience())
    assert await batcher.submit(1) == 2
    assert database.batches == [[1], [1], [1]]
    assert database.patient == [1, 1]


async def test_those_who_ask_the_same_meanwhile_share_an_answer() -> None:
    reads: list[str] = []
    answered = asyncio.Event()

    async def read(asked: str) -> str:
        reads.append(asked)
        await answered.wait()
        if asked == "b":
            raise ValueError(asked)
        return f"{asked} {len(reads)}"

    shared = SharedReads(read)
    early = [asyncio.create_task(shared.ask(asked)) for asked in ("a", "a", "b", "b")]
    await until(lambda: len(reads) == 2)
    late = [asyncio.create_task(shared.ask("a")) for _ in range(2)]  # these ask for the answer of a later moment
    await let_the_loop_read()
    assert reads == ["a", "b"]
    answered.set()
    assert await asyncio.gather(*early[:2]) == ["a 2", "a 2"]
    assert await asyncio.gather(*late) == ["a 3", "a 3"]
    assert [str(error) for error in await asyncio.gather(*early[2:], return_exceptions=True)] == ["b", "b"]
    assert reads == ["a", "b", "a"]
