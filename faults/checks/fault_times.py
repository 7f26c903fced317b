"""Which faults overlapped a message's life, and whether they explain its losses.

A worker may be declared dead while a fault kills, stops or silences one, or while two faults overlap that each cut the
same node off for a moment. A worker that was declared dead but lives continues until its next heartbeat: a zombie.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from faults.history import Fault

OVERLAP_SECONDS = 0.5  # a shorter pause between two faults is too short for a heartbeat
ZOMBIE_SECONDS = 10.0  # until a zombie learns of its loss, on busy cores
AFTERMATH_SECONDS = 3.0  # after a fault; no limit applies in this time
# Promise 5 says 5 seconds. A run shares its cores with all processes that it starts, so it gets two more.
DEATH_NOTICED_SECONDS = 7.0


def by_the_real_clock(row: Mapping[str, Any], faults: Sequence[Fault]) -> dict[str, Any]:
    """A message with its times as they were by the clock of the run, where a fault had moved that of the database."""
    return {**row, **{name: _real(row[name], faults) for name in ("submitted", "ended")}}


def _real(at: float | None, faults: Sequence[Fault]) -> float | None:
    for fault in faults:
        if at is not None and fault.clock_shift_seconds:
            real = at - fault.clock_shift_seconds
            if fault.began <= real <= (fault.ended or math.inf):
                return real
    return at


class Window(NamedTuple):
    """When a fault did harm, in seconds since the epoch; `ended` is infinite if it has not ended."""

    began: float
    ended: float
    fault: Fault

    def meets(self, other: "Window", within: float) -> bool:
        return self.began < other.ended + within and other.began < self.ended + within

    def same_place(self, other: "Window") -> bool:
        here, there = self.fault.where, other.fault.where
        return not here or not there or here == there


class FaultTimes:
    """The windows of all faults; `messages` are rows by message_id."""

    def __init__(self, faults: Iterable[Fault], messages: Mapping[str, Any]) -> None:
        ends = {row["key"]: math.inf if row["ended"] is None else row["ended"] for row in messages.values()}
        self.windows = [
            Window(fault.began, max([fault.ended or math.inf, *(ends.get(key, math.inf) for key in fault.keys)]), fault)
            for fault in faults
        ]
        cut_off = [window for window in self.windows if window.fault.cuts_off]
        together = [
            (max(one.began, other.began), max(one.ended, other.ended))
            for one, other in combinations(cut_off, 2)
            if one.meets(other, OVERLAP_SECONDS) and one.same_place(other)
        ]
        self._deaths = [window[:2] for window in self.windows if window.fault.lethal] + together
        self._zombies = [window[:2] for window in self.windows if window.fault.zombies] + together

    def deaths(self, began: float, ended: float | None) -> int:
        """How many times a message that lived in this time may have lost its worker."""
        end = math.inf if ended is None else ended
        return sum(death_began < end and death_ended > began for death_began, death_ended in self._deaths)

    def zombie_possible(self, at: float) -> bool:
        """Whether a zombie may run at that moment."""
        return any(began <= at <= ended + ZOMBIE_SECONDS for began, ended in self._zombies)


def losses(messages: Iterable[Any], times: FaultTimes, doomed: Sequence[str]) -> list[str]:
    """A message loses its worker at most as often as faults explain it; the `doomed` agents kill their own workers."""
    wrong = []
    for row in messages:
        if row["losses"] and row["agent"] not in doomed:
            met = times.deaths(row["submitted"], row["ended"])
            if row["losses"] > met:
                wrong.append(
                    f"{row['key']} is charged {row['losses']} losses, but {met} deaths of workers overlap its life"
                )
    return wrong


def deaths_noticed(times: FaultTimes) -> list[str]:
    """Deaths that were noticed too late, although no other fault was near."""
    wrong = []
    for window in times.windows:
        seconds = window.fault.noticed
        if seconds is not None and seconds > DEATH_NOTICED_SECONDS:
            others = [other for other in times.windows if other is not window]
            if not any(window.meets(other, AFTERMATH_SECONDS) for other in others):
                wrong.append(f"a worker's death was noticed after {seconds:.1f} seconds")
    return wrong
