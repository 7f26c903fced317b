"""The output of the commands: tables for people, JSON for machines."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import click
import msgspec

from service.terminal import visible_line

if TYPE_CHECKING:
    from rich.console import Console

PREVIEW_CHARS = 60  # characters of a text in a table
LEAST_COLUMNS, USUAL_COLUMNS = 40, 80


def as_json(value: Any) -> None:
    """One line of JSON. What JSON leaves as it is and a terminal obeys is escaped, too."""
    click.echo(visible_line(msgspec.json.encode(value).decode()))


def terminal() -> "Console":
    """Where tables are printed. In few columns (COLUMNS=0, a terminal without a size) they would lose their text."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    if console.width < LEAST_COLUMNS:
        console.width = USUAL_COLUMNS
    return console


def table(
    rows: Sequence[Any],
    columns: Mapping[str, str],
    empty: str,
    *,
    whole: Collection[str] = (),
    chars: int = PREVIEW_CHARS,
) -> None:
    """Structs as a table; `columns` maps a header to its field; `empty` is printed when there are none.
    Texts are wrapped where the terminal is narrow, but not those below the headers `whole`, and cut after `chars`
    characters."""
    if not rows:
        click.echo(empty)
        return
    console = terminal()
    with console.capture() as printed:  # rich itself ends the process where the reader has gone
        console.print(grid(rows, columns, whole=whole, chars=chars))
    click.echo(printed.get(), nl=False)


def grid(
    rows: Sequence[Any],
    columns: Mapping[str, str],
    *,
    whole: Collection[str] = (),
    chars: int = PREVIEW_CHARS,
) -> Any:
    """The same as a part of something that rich prints."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=False)
    for header, field in columns.items():
        values = [attrgetter(field)(row) for row in rows]
        number = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        text = any(isinstance(value, str | dict | list) for value in values)
        made.add_column(
            header, justify="right" if number else "left", no_wrap=not text or header in whole, overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(_cell(attrgetter(field)(row), chars)) for field in columns.values()))
    return made


def facts(values: dict[str, Any]) -> None:
    """Names and values, a line each."""
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def _cell(value: Any, chars: int = PREVIEW_CHARS) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ", ".join(value)
    else:
        text = msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= chars else text[: chars - 1] + "…"
