"""The benchmark says of which figures it measured too little to tell."""

import io

from rich.console import Console

from bench import report
from bench.report import Figure, Report, Row
from bench.stage import rate, spread

MACHINE = {"cpu": "Loom", "cores": 2, "memory_gib": 23.5, "system": "Linux"}


def shown(found: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    report.show(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def measured(figures: dict[str, Figure], *, quick: bool = False, case: str = "drain", row: str = "1 worker") -> Report:
    found = Report("2026-11-29", quick, MACHINE, {}, {})
    found.add(Row(case, row, figures))
    found.close()
    return found


def test_a_rate_over_a_short_time_is_marked_and_meets_no_target() -> None:
    short = shown(measured(rate(20_000, 0.5)))
    assert "40,000?" in short
    assert "too small to tell" in short
    assert "missed" not in short
    assert "met" not in short
    long = shown(measured(rate(20_000, 1.5)))
    assert "13,333 " in long
    assert "met" in long
    assert "too small" not in long


def test_a_percentile_needs_values_beyond_it() -> None:
    assert [figure.weak for figure in spread([1.0] * 60).values()] == [False, True, True]
    assert [figure.weak for figure in spread([1.0] * 300).values()] == [False, False, False]


def test_a_quick_run_cannot_tell_growth() -> None:
    growth = {"growth": Figure(1.1, "x"), "rate": Figure(9.0, "messages/s")}
    for quick in (False, True):
        found = measured(growth, quick=quick, case="flatness: growth", row="worst growth")
        [row] = found.rows
        assert (row.figures["growth"].weak, row.figures["rate"].weak) == (quick, False)
        [target] = [target for target in found.targets if target.value is not None]
        assert target.met is (None if quick else True)
