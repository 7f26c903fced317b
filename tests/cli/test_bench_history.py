"""Each run of the benchmark leaves a line, and the last two of one machine are compared."""

from pathlib import Path
from typing import Any

from bench import history
from bench.report import Figure, Report, Row

MACHINE = {"cpu": "Loom", "cores": 2, "memory_gib": 23.5}


def report(rate: float, *, quick: bool = False, machine: dict[str, Any] = MACHINE, case: str = "drain") -> Report:
    figures = {"rate": Figure(rate, "messages/s"), "lost": Figure(0.0, "events")}
    return Report("2026-11-29", quick, machine, {"commit": f"c{rate:g}"}, {}, [Row(case, "1 worker", figures)])


def test_the_last_two_runs_of_a_machine_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert history.last_two(history.read(path)) is None
    history.append(report(1_000.0), path)
    assert history.last_two(history.read(path)) is None
    for other in (
        report(5.0, quick=True),
        report(6.0, machine=MACHINE | {"cores": 4}),
        report(7.0, case="submit"),
        report(1_100.0),
    ):
        history.append(other, path)
    found = history.last_two(history.read(path))
    assert found is not None
    before, now = found
    assert (before.commit, now.commit, now.machine) == ("c1000", "c1100", "Loom, 2 cores, 23.5 GiB")
    rate, lost = history.changes(before, now)
    assert (rate.figure, rate.before, rate.now) == ("drain, 1 worker: rate", 1_000.0, 1_100.0)
    assert rate.percent is not None
    assert abs(rate.percent - 10) < 1e-9
    assert lost.percent == 0.0
