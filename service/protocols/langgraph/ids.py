"""Ids of the dialect. Each is computed, so that nothing has to be stored.

<message>         the run that begins with the message
<message>-<seq>   the run that goes on after the answer to the question at this place of the log
"""

import re
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from service.errors import NotFound

_RUN = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-([1-9][0-9]{0,9}))?")
_ASSISTANTS = UUID("1d1fb2a5-6d3c-5e0e-9c2f-6f7f8a54f0a1")
_QUESTIONS = UUID("d53b1bde-4a3f-52f4-8a53-0a3bb8a4f7c9")
_OF_GRAPHS = re.compile(r"(?:interrupt|breakpoint) ([0-9a-f-]{32,36})(?: \d+)?")


class RunId(NamedTuple):
    """`after`: the seq of the question after whose answer the run begins; 0: it begins with the message."""

    message_id: UUID
    after: int = 0

    def __str__(self) -> str:
        return f"{self.message_id}" + (f"-{self.after}" if self.after else "")


def parse_run(text: str) -> RunId:
    """Raises NotFound."""
    found = _RUN.fullmatch(text.lower())
    if found is None:
        raise NotFound(f"There is no run {text[:100]!r}.")
    return RunId(UUID(found[1]), int(found[2] or 0))


def assistant_id(agent: str) -> str:
    return str(uuid5(_ASSISTANTS, agent))


def message_id_of(run: UUID, part: str) -> str:
    """The id of a message of the conversation that a run has made."""
    return str(uuid5(run, part))


def interrupt_id(question: str) -> str:
    """LangGraph's own id, where a graph asks; else one that follows from the name of the question."""
    found = _OF_GRAPHS.fullmatch(question)
    return found[1] if found else uuid5(_QUESTIONS, question).hex


def interrupts_of(asks: Any, graph: Any = None) -> list[dict[str, Any]]:
    """The open interrupts. `asks`: the question that the message waits with (name and question). `graph`: the data of
    the last values of its graph, which name the interrupts."""
    known = graph.get("interrupts") if isinstance(graph, dict) else None
    if isinstance(known, list) and known:
        return known
    return [{"value": asks.get("question"), "id": interrupt_id(str(asks.get("name")))}]
