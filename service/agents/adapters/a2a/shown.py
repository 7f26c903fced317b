"""What of a task the log shows, and its result."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from a2a.types import Artifact, Part, TaskStatus

from service.agents.adapters.a2a.parts import read_part, read_parts
from service.agents.contract import Context, Rejected
from service.agents.tool_events import write_event

MAX_PARTS_BYTES = 10_000_000  # of all artifacts together
MAX_TOLD = 10_000  # digests that are kept, of what has been told


class Shown:
    """Passes on the artifacts of a task, as far as this attempt has not passed them on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._parts: dict[str, list[Any]] = {}  # by the id of the artifact
        self._bytes: dict[str, int] = {}  # of the parts, by the id of the artifact
        self._all_bytes = 0
        self._told: dict[bytes, None] = {}  # digests of parts and messages, the oldest first

    async def take(self, artifacts: Iterable[Artifact]) -> None:
        """The artifacts as they are now."""
        for artifact in artifacts:
            await self.update(artifact, append=False)

    async def update(self, artifact: Artifact, *, append: bool) -> None:
        """Raises Rejected for an answer that is too large."""
        self._count(artifact, append=append)
        parts = self._parts.setdefault(artifact.artifact_id, [])
        given = [read_part(part) for part in artifact.parts]
        if append:
            parts += given
        else:
            shown, text = _text(parts), _text(given)
            parts[:] = given
            if text.startswith(shown):  # the client has its beginning
                given = [text[len(shown) :], *(part for part in given if not isinstance(part, str))]
        for part in given:
            if not isinstance(part, str):
                if self._is_new("part", artifact.artifact_id, part):
                    await write_event(self._context, "artifact", id=artifact.artifact_id, part=part)
            elif part:
                await self._context.emit(part)

    async def tell(self, status: TaskStatus) -> None:
        """What the task says while it works."""
        if status.HasField("message") and self._is_new("message", status.message.message_id):
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

    def _count(self, artifact: Artifact, *, append: bool) -> None:
        """Raises Rejected."""
        before = self._bytes.get(artifact.artifact_id, 0)
        kept = before if append and before else len(artifact.artifact_id)
        self._bytes[artifact.artifact_id] = kept + sum(part.ByteSize() for part in artifact.parts)
        self._all_bytes += self._bytes[artifact.artifact_id] - before
        if self._all_bytes > MAX_PARTS_BYTES:
            raise Rejected(f"The answer of the agent has more than {MAX_PARTS_BYTES} bytes.")

    def _is_new(self, *told: Any) -> bool:
        """Whether this has not been told; from now on it has."""
        digest = hashlib.sha256(msgspec.json.encode(told, order="sorted")).digest()
        if digest in self._told:
            return False
        self._told[digest] = None
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
        return True


def _text(parts: list[Any]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
