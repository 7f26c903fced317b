"""What the runs on this machine found: bench/history.jsonl has a line for each. `make bench-compare` compares the last
two of the same machine and size, figure by figure."""

import sys
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from bench.report import Report, number

HISTORY = Path(__file__).parent / "history.jsonl"
WORTH_A_LOOK = 3.0  # percent
TABLE_COLUMNS = 130  # the table needs so many


class Run(msgspec.Struct, frozen=True):
    date: str
    commit: str
    machine: str
    quick: bool
    figures: dict[str, float]  # by case, row and figure


class Change(msgspec.Struct, frozen=True):
    """`percent`: None where the figure was 0 before."""

    figure: str
    before: float
    now: float
    percent: float | None


def append(report: Report, path: Path = HISTORY) -> None:
    """Add the figures of a run."""
    run = Run(
        report.date,
        report.versions.get("commit", ""),
        machine_name(report.machine),
        report.quick,
        {
            f"{row.case}, {row.name}: {name.replace('_', ' ')}": figure.value
            for row in report.rows
            for name, figure in row.figures.items()
        },
    )
    with path.open("ab") as file:
        file.write(msgspec.json.encode(run) + b"\n")


def read(path: Path = HISTORY) -> list[Run]:
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Run) for line in path.read_bytes().splitlines() if line.strip()]


def last_two(runs: list[Run]) -> tuple[Run, Run] | None:
    """The last run, after the one before it on the same machine, of the same size and with a figure in common."""
    if not runs:
        return None
    last = runs[-1]
    for run in reversed(runs[:-1]):
        if (run.machine, run.quick) == (last.machine, last.quick) and not last.figures.keys().isdisjoint(run.figures):
            return run, last
    return None


def changes(before: Run, now: Run) -> list[Change]:
    """Of the figures that both runs have, in the order of the later one."""
    return [
        Change(name, before.figures[name], value, _percent(before.figures[name], value))
        for name, value in now.figures.items()
        if name in before.figures
    ]


def machine_name(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB"


def _percent(before: float, now: float) -> float | None:
    if before == now:
        return 0.0
    return None if not before else 100 * (now / before - 1)


def _show(before: Run, now: Run, console: Console) -> None:
    table = Table("figure", box=box.SIMPLE_HEAD, title=f"\n{now.machine}", title_justify="left")
    for title in (f"{before.date}\n{before.commit}", f"{now.date}\n{now.commit}", "change"):
        table.add_column(title, justify="right")
    for change in changes(before, now):
        percent = "" if change.percent is None else f"{change.percent:+.1f} %"
        style = "bold" if change.percent is None or abs(change.percent) > WORTH_A_LOOK else "dim"
        table.add_row(change.figure, number(change.before), number(change.now), percent, style=style)
    console.print(table)
    if now.quick:
        console.print("These are quick runs, which are too small to tell.", style="yellow")


def main() -> None:
    found = last_two(read())
    if found is None:
        sys.exit("There are no two runs of the same machine and size to compare: run make bench first.")
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)
    _show(*found, console)


if __name__ == "__main__":
    main()
