"""Durations as arguments of commands."""

import re
from typing import Any

import click

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_DAYS = 36_500  # a date as far away is one that Python can write


class Duration(click.ParamType[float]):
    """Such as 90d, 12h, 30m, 45s; in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration: send one such as 90d, 12h, 30m or 45s.", param, ctx)
        seconds = float(found[1]) * SECONDS[found[2]]
        if seconds > MAX_DAYS * SECONDS["d"]:
            self.fail(f"{value!r} is more than {MAX_DAYS}d.", param, ctx)
        return seconds
