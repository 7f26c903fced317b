"""Patience: callers wait for what others hold, in one line for each held thing, and delay no other caller."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service import patience
from service.batching import Batcher
from service.errors import Busy, Conflict
from service.patience import Patience
from tests.support.waiting import let_the_loop_read, until


class Things:
    """Calls that need a thing; they end with Busy while it is held. Records them."""

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.calls: list[tuple[str, str, bool]] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def call(self, caller: str, thing: str, repeated: bool) -> str:
        self.calls.append((caller, thing, repeated))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if thing in self.held:
            raise Busy("held", held=thing)
        return caller

    def start(self, patient: Patience, caller: str, thing: str, **more: Any) -> asyncio.Task[str]:
        return asyncio.create_task(patient.run(lambda repeated: self.call(caller, thing, repeated), **more))

    def callers(self) -> set[str]:
        return {caller for caller, _, _ in self.calls}


async def test_a_free_thing_takes_one_call() -> None:
    things = Things()
    assert await things.start(Patience(), "a", "t") == "a"
    assert things.calls == [("a", "t", False)]


async def test_one_caller_repeats_and_the_others_wait_behind_it() -> None:
    things, patient = Things("t"), Patience()
    first = things.start(patient, "first", "t", key="t")
    await until(lambda: len(things.calls) > 1)
    others = [things.start(patient, f"other {n}", "t", key="t") for n in range(50)]
    tried = len(things.calls)
    await until(lambda: len(things.calls) > tried + 1)
    assert things.callers() == {"first"}
    things.held.clear()
    assert await asyncio.gather(first, *others) == ["first", *(f"other {n}" for n in range(50))]


async def test_a_caller_that_leaves_keeps_no_place_in_its_line() -> None:
    things, patient = Things("t"), Patience()
    first = things.start(patient, "first", "t", key="t")
    await until(lambda: len(things.calls) > 1)
    for _ in range(patience.MAX_LINE_CALLERS + 1):
        left = things.start(patient, "left", "t", key="t")
        await let_the_loop_read()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
    last = things.start(patient, "last", "t", key="t")
    await let_the_loop_read()
    things.held.clear()
    assert [await first, await last] == ["first", "last"]


async def test_the_first_call_names_the_held_thing() -> None:
    """40 callers that do not know it make one call each, and only one of them repeats it."""
    things, patient = Things("t"), Patience(slots=2)
    callers = [things.start(patient, str(n), "t") for n in range(40)]
    await until(lambda: len(things.calls) > 45)
    assert len({caller for caller, _, repeated in things.calls if repeated}) == 1
    things.held.clear()
    await asyncio.gather(*callers)


async def test_many_held_things_delay_no_caller_that_needs_another() -> None:
    things = Things(*(f"t{n}" for n in range(200)))
    patient = Patience(slots=2)
    stuck = [things.start(patient, str(n), f"t{n}", key=f"t{n}") for n in range(200)]
    await until(lambda: len(things.calls) > 400)
    assert await things.start(patient, "stranger", "free", key="free") == "stranger"
    assert [call for call in things.calls if call[0] == "stranger"] == [("stranger", "free", False)]
    assert not patient.has_few_lines
    # Where one of them becomes free, its caller does not wait for the others.
    things.held.discard("t7")
    assert await stuck[7] == "7"
    things.held.clear()
    await asyncio.gather(*stuck)
    assert things.most_in_flight <= 2 + patience.CONCURRENT_REPETITIONS


async def test_every_caller_is_answered_at_its_deadline() -> None:
    things, patient = Things("t"), Patience(seconds=0.05)
    callers = [things.start(patient, str(n), "t", key="t") for n in range(20)]
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(answer) for answer in answers} == {Busy}
    things.held.clear()
    assert await things.start(patient, "later", "t", key="t") == "later"


async def test_a_caller_that_is_cancelled_leaves_the_line() -> None:
    things, patient = Things("t"), Patience()
    first, second, third = [things.start(patient, name, "t", key="t") for name in ("first", "second", "third")]
    await until(lambda: ("first", "t", True) in things.calls)
    second.cancel()
    first.cancel()  # the first of the line that is left goes on
    await until(lambda: ("third", "t", True) in things.calls)
    things.held.clear()
    assert await third == "third"
    assert ("second", "t", True) not in things.calls
    assert await things.start(patient, "later", "t", key="t") == "later"


async def test_a_caller_that_is_cancelled_as_it_becomes_the_first_passes_on() -> None:
    things, patient = Things("t"), Patience()
    first, second, third = [things.start(patient, name, "t", key="t") for name in ("first", "second", "third")]
    await until(lambda: ("first", "t", True) in things.calls)
    first.cancel()
    await asyncio.wait({first})
    second.cancel()
    await until(lambda: ("third", "t", True) in things.calls)
    things.held.clear()
    assert await third == "third"


async def test_another_error_frees_the_line() -> None:
    class Refusing(Things):
        async def call(self, caller: str, thing: str, repeated: bool) -> str:
            await super().call(caller, thing, repeated)
            raise Conflict("It is over already.")

    things, patient = Refusing("t"), Patience()
    callers = [things.start(patient, str(n), "t", key="t") for n in range(3)]
    await until(lambda: len(things.calls) > 5)
    things.held.clear()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Conflict] * 3


async def test_a_caller_that_needs_two_things_waits_for_each() -> None:
    things, patient = Things("a", "b"), Patience()

    async def both(repeated: bool) -> str:
        await things.call("both", "a", repeated)
        return await things.call("both", "b", repeated)

    caller = asyncio.create_task(patient.run(both))
    await until(lambda: ("both", "a", True) in things.calls)
    things.held.discard("a")
    await until(lambda: ("both", "b", True) in things.calls)
    things.held.discard("b")
    assert await caller == "both"


async def test_a_full_line_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MAX_LINE_CALLERS", 2)
    monkeypatch.setattr(patience, "MAX_LINE_CHARS", 110)
    monkeypatch.setattr(patience, "CALLER_CHARS", 5)
    things, patient = Things("t"), Patience()
    first = things.start(patient, "first", "t", key="t")
    await until(lambda: ("first", "t", True) in things.calls)
    second = things.start(patient, "second", "t", key="t", characters=90)
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="many requests wait"):
        await things.start(patient, "too large", "t", key="t", characters=20)
    third = things.start(patient, "third", "t", key="t", characters=10)
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="many requests wait"):
        await things.start(patient, "too many", "t", key="t")
    things.held.clear()
    assert list(await asyncio.gather(first, second, third)) == ["first", "second", "third"]


async def test_what_all_writers_of_a_tenant_share_has_room_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MAX_LINE_CALLERS", 2)
    monkeypatch.setattr(patience, "MAX_LINE_CHARS", 100 * patience.CALLER_CHARS)
    things, patient = Things("tenant/"), Patience()
    callers = [things.start(patient, str(n), "tenant/") for n in range(101)]
    await until(lambda: ("0", "tenant/", True) in things.calls)
    with pytest.raises(Busy, match="many requests wait"):
        await things.start(patient, "too many", "tenant/")
    things.held.clear()
    assert await asyncio.gather(*callers) == [str(n) for n in range(101)]


async def test_large_items_of_a_batcher_that_wait_for_a_held_thing_are_bounded() -> None:
    things = Things("tenant/")

    async def run(batch: Sequence[int], _: bool) -> list[str | Exception]:
        return [await things.call(str(item), "tenant/", False) for item in batch]

    batcher = Batcher(run, limit=100, patience=Patience(), measure=lambda item: item)
    first = asyncio.create_task(batcher.submit(1))
    await until(lambda: len(things.calls) > 1)
    small = asyncio.create_task(batcher.submit(2))
    with pytest.raises(Busy, match="many requests wait"):
        await batcher.submit(patience.MAX_LINE_CHARS)
    things.held.clear()
    assert list(await asyncio.gather(first, small)) == ["1", "2"]


async def test_many_calls_of_one_group_delay_another_group_by_one_call() -> None:
    things, patient = Things(), Patience(slots=1)
    many = [things.start(patient, str(n), "t", group="acme") for n in range(20)]
    await asyncio.sleep(0)  # all of them ask, and one has the slot
    other = things.start(patient, "other", "u", group="globex")
    await asyncio.gather(*many, other)
    begun = [caller for caller, _, _ in things.calls]
    assert begun.index("other") <= begun.index("0") + 3
    assert things.most_in_flight == 1


async def test_a_group_leaves_slots_to_the_others() -> None:
    patient, gate = Patience(slots=3, slots_of_group=2), asyncio.Event()
    begun: list[str] = []

    async def call(name: str) -> str:
        begun.append(name)
        await gate.wait()
        return name

    def start(name: str) -> asyncio.Task[str]:
        return asyncio.create_task(patient.run(lambda _: call(name), group=name[0]))

    calls = [start(name) for name in ("a1", "a2", "a3", "a4")]
    await let_the_loop_read()
    assert begun == ["a1", "a2"]
    calls += [start(name) for name in ("b1", "b2")]
    await let_the_loop_read()
    assert begun == ["a1", "a2", "b1"]
    calls[3].cancel()
    gate.set()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [end for end in ended if isinstance(end, str)] == ["a1", "a2", "a3", "b1", "b2"]
    assert await asyncio.gather(*(start(name) for name in ("a5", "a6", "c1"))) == ["a5", "a6", "c1"]


async def test_a_caller_that_is_cancelled_before_it_has_its_slot_leaves_it_to_the_next() -> None:
    patient, gate = Patience(slots=1), asyncio.Event()

    async def call(_: bool) -> str:
        await gate.wait()
        return "done"

    first, second, third = [asyncio.create_task(patient.run(call)) for _ in range(3)]
    await let_the_loop_read()
    gate.set()
    await asyncio.sleep(0)  # the second one has the slot now, and does not know yet
    second.cancel()
    assert list(await asyncio.gather(first, third)) == ["done", "done"]
    assert await patient.run(call) == "done"


async def test_a_slot_that_does_not_become_free_is_busy_at_the_deadline() -> None:
    patient = Patience(seconds=0.05, slots=1)
    gate = asyncio.Event()

    async def slow(_: bool) -> str:
        await gate.wait()
        return "slow"

    first = asyncio.create_task(patient.run(slow))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="under way"):
        await patient.run(slow)
    gate.set()
    assert await first == "slow"
