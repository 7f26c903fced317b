"""What of a task the log shows, and its result."""

from collections.abc import Iterable
from typing import Any

from a2a.types import Artifact, Part, TaskStatus

from service.agents.adapters.a2a.parts import read_part, read_parts
from service.agents.contract import Context, Rejected
from service.agents.tool_events import write_event

MAX_ANSWER_CHARS = 10_000_000


class Shown:
    """Passes on the artifacts of a task, as far as this attempt has not passed them on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._parts: dict[str, list[Any]] = {}  # by the id of the artifact
        self._said: set[str] = set()  # messages of the task

    async def take(self, artifacts: Iterable[Artifact]) -> None:
        """The artifacts as they are now."""
        for artifact in artifacts:
            await self.update(artifact, append=False)

    async def update(self, artifact: Artifact, *, append: bool) -> None:
        """Raises Rejected for an answer that is too large."""
        before = self._parts.setdefault(artifact.artifact_id, [])
        given = [read_part(part) for part in artifact.parts]
        shown = _text(before)
        if append:
            before += given
        else:
            before[:] = given
            if _text(given).startswith(shown):  # the client has its beginning
                given = [_text(given)[len(shown) :], *(part for part in given if not isinstance(part, str))]
        if sum(len(_text(parts)) for parts in self._parts.values()) > MAX_ANSWER_CHARS:
            raise Rejected(f"The answer of the agent has more than {MAX_ANSWER_CHARS} characters.")
        for part in given:
            if not isinstance(part, str):
                key = f"{artifact.artifact_id} {part!r}"
                if key not in self._said:
                    self._said.add(key)
                    await write_event(self._context, "artifact", id=artifact.artifact_id, part=part)
            elif part:
                await self._context.emit(part)

    async def tell(self, status: TaskStatus) -> None:
        """What the task says while it works."""
        if status.HasField("message") and status.message.message_id not in self._said:
            self._said.add(status.message.message_id)
            await write_event(self._context, "progress", message=read_parts(status.message.parts))

    def result(self, said: Iterable[Part]) -> Any:
        """`said`: with the last status; it counts where there is no artifact."""
        parts = [part for parts in self._parts.values() for part in parts]
        if not parts:
            return read_parts(said) if (said := list(said)) else None
        others = [part for part in parts if not isinstance(part, str)]
        text = _text(parts)
        if not others:
            return text
        return others[0] if len(others) == 1 and not text else {"text": text, "parts": others}


def _text(parts: list[Any]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
