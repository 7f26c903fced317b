"""Which faults something met: what they explain, and what nothing explains.

A worker may be taken for dead where a fault kills, stops or silences one; or where two faults meet each of which cuts
the same ones off for a moment. Whoever was taken for dead and lives goes on until its next heartbeat: a zombie.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from faults.history import Fault

MEET_SECONDS = 0.5  # between the end of one and the beginning of the other, too few to send a heartbeat
ZOMBIE_SECONDS = 10.0  # until one has heard of it, on busy cores
AFTERMATH_SECONDS = 3.0  # of a fault, in which nothing is measured against a limit
# A death is noticed within 5 seconds, says promise 5; a run shares its cores with all that it starts, hence two more.
DEATH_SECONDS = 7.0


class Window(NamedTuple):
    """When a fault did harm, seconds since the epoch; `ended` is infinite where it had no end."""

    began: float
    ended: float
    fault: Fault

    def meets(self, other: "Window", within: float) -> bool:
        return self.began < other.ended + within and other.began < self.ended + within

    def same_place(self, other: "Window") -> bool:
        here, there = self.fault.where, other.fault.where
        return not here or not there or here == there


class Blame:
    """`messages` are rows by message_id."""

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
            if one.meets(other, MEET_SECONDS) and one.same_place(other)
        ]
        self._deaths = [window[:2] for window in self.windows if window.fault.lethal] + together
        self._zombies = [window[:2] for window in self.windows if window.fault.zombies] + together

    def deaths(self, began: float, ended: float | None) -> int:
        """How many times a message of this lifetime may have lost its worker."""
        end = math.inf if ended is None else ended
        return sum(death_began < end and death_ended > began for death_began, death_ended in self._deaths)

    def zombie(self, at: float) -> bool:
        """Whether one may be about then."""
        return any(began <= at <= ended + ZOMBIE_SECONDS for began, ended in self._zombies)


def losses(messages: Iterable[Any], blame: Blame, doomed: Sequence[str]) -> list[str]:
    """A message loses its worker no more often than such faults met it; the `doomed` agents kill theirs."""
    wrong = []
    for row in messages:
        if row["losses"] and row["agent"] not in doomed:
            met = blame.deaths(row["submitted"], row["ended"])
            if row["losses"] > met:
                wrong.append(f"{row['key']} is charged {row['losses']} losses, and met {met} deaths of workers")
    return wrong


def deaths_noticed(blame: Blame) -> list[str]:
    """Deaths that were noticed too late, of those that met no other fault, nor what it left behind."""
    wrong = []
    for window in blame.windows:
        seconds = window.fault.noticed
        if seconds is not None and seconds > DEATH_SECONDS:
            others = [other for other in blame.windows if other is not window]
            if not any(window.meets(other, AFTERMATH_SECONDS) for other in others):
                wrong.append(f"a worker's death was noticed after {seconds:.1f} seconds")
    return wrong
