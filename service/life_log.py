"""One line at INFO for each event in the life of a message: ids, agent and times, never what people or models wrote.

Lines that are written at the same moment share a log record (`logs` writes each on a line of its own), so that a busy
worker does not spend its time on logging. LOG_LEVEL=warning leaves them out.
"""

import asyncio
import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from service import telemetry
from service.redaction import redact
from service.telemetry import Answered, Asked, LostWork, Work
from service.terminal import visible_line

log = logging.getLogger(__name__)

ENDED = frozenset({"completed", "failed", "cancelled"})

Line = dict[str, Any]  # what happened, as `message`, and the fields of the line


@contextmanager
def writing() -> Iterator[None]:
    """Write the lines of this process meanwhile; in the running loop."""
    if log.isEnabledFor(logging.INFO):
        writer = _Writer()
        with writer.listening():
            yield
        writer.flush()
    else:
        yield


class _Writer:
    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def listening(self) -> Iterator[None]:
        with telemetry.listening(
            telemetry.submit.listen(self._submit),
            telemetry.claim.listen(self._claim),
            telemetry.finish.listen(self._finish),
            telemetry.retry.listen(self._retry),
            telemetry.cancel.listen(self._cancel),
            telemetry.redrive.listen(self._redrive),
            telemetry.reap.listen(self._reap),
        ):
            yield

    def _submit(self, *, tenant: str, messages: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
        for asked, answered in zip(messages, answers, strict=True):
            if answered.state not in {"busy", "refused"}:
                fields = {"tenant": tenant, "queue": answered.queue, "ms": _milliseconds(seconds)}
                if asked.agent is not None:
                    fields["agent"] = _clean(asked.agent)
                self._add({"message": "submitted", "message_id": answered.message_id, **fields})

    def _claim(self, *, works: Sequence[Work], room: int, seconds: float) -> None:
        for work in works:
            self._add(_line("started", work))

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        if status in ENDED:
            self._add({**_line(status, work), "ms": _milliseconds(seconds)})
        elif outcome in {"children", "input", "released"}:
            what = "released" if outcome == "released" else "parked"
            self._add({**_line(what, work), "outcome": outcome, "ms": _milliseconds(seconds)})

    def _retry(self, *, work: Work, outcome: str, delay_seconds: float) -> None:
        self._add({**_line("retried", work), "outcome": outcome, "delay_ms": _milliseconds(delay_seconds)})

    def _cancel(self, *, tenant: str, message_id: UUID, answer: str) -> None:
        what = "cancelled" if answer == "cancelled" else "cancel requested"
        self._add({"message": what, "message_id": message_id, "tenant": tenant})

    def _redrive(self, *, tenant: str, message_id: UUID) -> None:
        self._add({"message": "redriven", "message_id": message_id, "tenant": tenant})

    def _reap(self, *, works: Sequence[LostWork]) -> None:
        for work in works:
            self._add({"message": "lost", "message_id": work.message_id, "queue": work.queue})

    def _add(self, line: Line) -> None:
        if not self._lines:
            self._loop.call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            log.info("%d events of messages", len(lines), extra={"lines": lines})


def _line(what: str, work: Work) -> Line:
    return {
        "message": what,
        "message_id": work.message_id,
        "tenant": work.tenant,
        "queue": work.queue,
        "agent": _clean(work.agent),
        "attempt": work.attempt,
    }


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


@functools.lru_cache(1_000)
def _clean(agent: str) -> str:
    """A name that someone gave; `logs` does not look at these lines once more, because that takes twenty times as long
    as to write them."""
    return visible_line(redact(agent))
