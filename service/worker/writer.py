"""What a worker writes: appends and finishes in batches, each followed by its hints."""

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from uuid import UUID

from service import telemetry
from service.batching import Batcher
from service.db.notifier import EVENTS, WORK, Notifier, event_hint
from service.errors import Busy
from service.leases.model import Append, Appended, Claim, Finish, Finished, FinishStatus
from service.leases.store import LeaseStore
from service.maintenance.janitor import Janitor
from service.patience import Patience
from service.worker.persistence import persist

APPEND_BATCH_ITEMS = 200
FINISH_BATCH_ITEMS = 200
ITEM_CHARACTERS = 40_000  # beyond, an item counts for several: PostgreSQL must settle a batch within its timeout
# Readers hear that an attempt has started when it has written nothing so long. Most write sooner, and the hint of that
# would meet readers that are just reading.
STARTED_HINT_SECONDS = 0.01
# An append that takes so much longer than the quickest one tells that the machine is loaded: fewer and larger appends
# cost it less.
SLOW_APPEND_SECONDS = 0.005
REST_PER_SLOW_APPEND = 2  # times as long as the slow append took
LONGEST_REST_SECONDS = 0.025


class Writer:
    def __init__(self, *, store: LeaseStore, notifier: Notifier, janitor: Janitor, max_losses: int) -> None:
        self._store = store
        self._notifier = notifier
        self._janitor = janitor
        self._max_losses = max_losses
        self._quickest_append_seconds = math.inf
        self._started: dict[UUID, str] = {}  # the hints of attempts that have written nothing yet, by message
        self._sending_started: asyncio.TimerHandle | None = None
        # Apart, so that the first words of an answer do not wait for those of all others.
        self._first_appends = self._append_batcher()
        self._appends = self._append_batcher()
        self._finishes: Batcher[Finish, Finished] = Batcher(
            self._finish,
            limit=FINISH_BATCH_ITEMS,
            weigh=_weight,
            must_run_alone=_is_not_plain,
            patience=Patience(repetitions=None),
        )

    def append(self, append: Append) -> Awaitable[Appended]:
        """Write events of an attempt to its message's log."""
        return (self._first_appends if append.is_first and not _sends(append) else self._appends).submit(append)

    def rest_after(self, seconds: float) -> float:
        """Seconds that an attempt waits before its next append, after one that took `seconds`."""
        self._quickest_append_seconds = min(self._quickest_append_seconds, seconds)
        is_slow = seconds > self._quickest_append_seconds + SLOW_APPEND_SECONDS
        return min(REST_PER_SLOW_APPEND * seconds, LONGEST_REST_SECONDS) if is_slow else 0.0

    def finish(self, finish: Finish) -> Awaitable[Finished]:
        """End an attempt."""
        return self._finishes.submit(finish)

    def hint_started(self, claim: Claim) -> None:
        """Tell readers of the log soon that the attempt has started, unless it writes before."""
        if self._sending_started is None:
            self._sending_started = asyncio.get_running_loop().call_later(STARTED_HINT_SECONDS, self._send_started)
        self._started[claim.message_id] = _event_hint(claim)

    def hint_ended(self, claim: Claim, status: FinishStatus, *, queue_has_room: bool) -> None:
        """Tell the workers if its queue or its thread may have another message to claim, and the router if its
        subscription may take another record. (The finish has told the readers of the log.)"""
        if claim.thread is not None or status == "queued" or queue_has_room:
            self._notifier.hint(WORK, claim.queue)
        if status != "queued":
            if claim.parent is not None:
                self._janitor.tend(claim.parent)
            if (subscription := claim.subscription) is not None:
                self._janitor.deliver(subscription)
        if status in {"failed", "cancelled"}:
            self._janitor.tend(claim.message_id)  # what it sent is to be cancelled

    def _append_batcher(self) -> Batcher[Append, Appended]:
        return Batcher(
            self._append,
            limit=APPEND_BATCH_ITEMS,
            in_turns=True,
            weigh=_weight,
            must_run_alone=_sends,
            patience=Patience(repetitions=None),
        )

    async def _append(self, batch: Sequence[Append], patient: bool) -> list[Appended | Exception]:
        began = time.monotonic()
        if _sends(batch[0]):
            answers = [await persist("append", lambda: self._store.append_and_send(batch[0], patient))]
            hinted = False
        else:
            with self._notifier.with_commit(single=len(batch) == 1) as hinted:
                hint = _event_hint(batch[0]) if hinted else None
                answers = await persist("append", lambda: self._store.append(batch, patient, hint), len(batch))
        events = sum([len(append.events) for append in batch])
        telemetry.append(appends=len(batch), events=events, seconds=time.monotonic() - began)
        self._hint_written(batch, hinted=hinted)
        return [Busy("The thread's log is locked.") if answer.status == "busy" else answer for answer in answers]

    async def _finish(self, batch: Sequence[Finish], patient: bool) -> list[Finished | Exception]:
        losses, began = self._max_losses, time.monotonic()
        if _is_not_plain(batch[0]):
            answers = [await persist("conclude", lambda: self._store.conclude(batch[0], patient, losses))]
            hinted = False
        else:
            with self._notifier.with_commit(single=len(batch) == 1) as hinted:
                hint = _event_hint(batch[0]) if hinted else None
                answers = await persist("finish", lambda: self._store.finish(batch, patient, losses, hint), len(batch))
        events = sum([len(finish.events) for finish in batch])
        telemetry.settle(attempts=len(batch), events=events, seconds=time.monotonic() - began)
        self._hint_written(batch, hinted=hinted)
        for finish, answer in zip(batch, answers, strict=True):
            if answer.status == "queued":
                self._tend_queued(finish)
        return [Busy("The thread is locked.") if answer.status == "busy" else answer for answer in answers]

    def _hint_written(self, batch: Sequence[Append | Finish], *, hinted: bool) -> None:
        """Tell readers of the logs, unless they have heard it with the commit."""
        for item in batch:
            self._started.pop(item.message_id, None)
            if not hinted:
                self._notifier.hint(EVENTS, _event_hint(item))
        if not self._started and self._sending_started is not None:
            self._sending_started.cancel()  # an idle worker sleeps on
            self._sending_started = None

    def _send_started(self) -> None:
        self._sending_started = None
        for hint in self._started.values():
            self._notifier.hint(EVENTS, hint)
        self._started.clear()

    def _tend_queued(self, finish: Finish) -> None:
        if finish.outcome.delay_seconds is not None:
            self._janitor.admit_in(finish.outcome.delay_seconds)
        elif finish.outcome.children:
            self._janitor.tend(finish.message_id)  # its children may have ended by now


def _event_hint(item: Append | Finish | Claim) -> str:
    return event_hint(item.message_id, item.thread)


def _weight(item: Append | Finish) -> int:
    """For how many items it counts in a batch."""
    return 1 + item.characters // ITEM_CHARACTERS


def _sends(append: Append) -> bool:
    return append.sends is not None


def _is_not_plain(finish: Finish) -> bool:
    return not finish.outcome.is_plain
