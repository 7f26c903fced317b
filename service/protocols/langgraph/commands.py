"""Checks the command of a run, which a client sends in place of an input, and its config. Pure functions."""

from typing import Any

from service.errors import Unprocessable
from service.protocols.langgraph.model import Json

MAX_PLACES = 100  # in one goto
EMPTY_COMMAND_DETAIL = "command must have resume, update or goto."
UPDATE_DETAIL = "command.update must be an object, or a list of pairs of a name and a value."
GOTO_DETAIL = (
    f"command.goto must be the name of a node, an object with node and input, or a list of them (at most {MAX_PLACES})."
)
CONFIGURABLE_DETAIL = "config.configurable must be an object."
RECURSION_LIMIT_DETAIL = "config.recursion_limit must be a whole number from 1."


def check_config(config: Json) -> None:
    """Raises Unprocessable."""
    if not isinstance(config.get("configurable") or {}, dict):
        raise Unprocessable(CONFIGURABLE_DETAIL)
    limit = config.get("recursion_limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise Unprocessable(RECURSION_LIMIT_DETAIL)


def check_command(command: Json) -> None:
    """Of a run that begins. Raises Unprocessable."""
    update, goto = command.get("update"), command.get("goto")
    if update is None and goto is None:
        raise Unprocessable(EMPTY_COMMAND_DETAIL)
    if not (update is None or isinstance(update, dict) or (isinstance(update, list) and all(map(_is_pair, update)))):
        raise Unprocessable(UPDATE_DETAIL)
    places = goto if isinstance(goto, list) else [] if goto is None else [goto]
    if len(places) > MAX_PLACES or not all(map(_is_place, places)):
        raise Unprocessable(GOTO_DETAIL)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)


def _is_place(item: Any) -> bool:
    name = item.get("node") if isinstance(item, dict) else item
    return isinstance(name, str) and bool(name)
