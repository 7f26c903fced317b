"""What the CLI prints: tables for people, JSON for machines."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

PREVIEW = 60  # characters of a text in a table


def as_json(value: Any) -> None:
    """One line of JSON."""
    click.echo(msgspec.json.encode(value))


def table(rows: Sequence[Any], columns: Sequence[str], empty: str) -> None:
    """Structs as a table of the named fields; `empty` is said when there are none."""
    if not rows:
        click.echo(empty)
        return
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        first = getattr(rows[0], column)
        grid.add_column(column, justify="right" if isinstance(first, int | float) else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(getattr(row, column)) for column in columns))
    Console(soft_wrap=False).print(grid)


def facts(values: dict[str, Any]) -> None:
    """Names and values, a line each."""
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = (
        value
        if isinstance(value, str)
        else msgspec.json.encode(value).decode()
        if isinstance(value, dict | list)
        else str(value)
    )
    text = text.replace("\n", " ").replace("[", "\\[")
    return text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…"
