"""What remote workers write: the calls of the same moment go in one statement, and its hints follow the commit."""

import time
from collections.abc import Sequence

from service.batching import Batcher
from service.db.notifier import EVENTS, RECORDS, WORK, Notifier, event_hint
from service.errors import Busy, Conflict, LeaseLost
from service.leases.model import Claim
from service.patience import HELD_SECONDS, Patience
from service.protocols.leases.moments import RemoteMoments
from service.protocols.leases.store import (
    LEASE_LOST_DETAIL,
    RemoteAppend,
    RemoteAppended,
    RemoteFinish,
    RemoteFinished,
    RemoteLeaseStore,
)

APPEND_BATCH_ITEMS = 200
FINISH_BATCH_ITEMS = 200
ITEM_CHARACTERS = 40_000  # beyond, an item counts for several: PostgreSQL must settle a batch within its timeout
GAP_DETAIL = "Events before first_seq are not in the log: send them first."


class RemoteWriter:
    def __init__(self, store: RemoteLeaseStore, notifier: Notifier, moments: RemoteMoments) -> None:
        self._store = store
        self._notifier = notifier
        self._moments = moments
        self._appends: Batcher[RemoteAppend, RemoteAppended] = Batcher(
            self._append,
            limit=APPEND_BATCH_ITEMS,
            weigh=_weight,
            must_run_alone=lambda append: append.sends is not None,
            patience=Patience(seconds=HELD_SECONDS),
        )
        self._finishes: Batcher[RemoteFinish, RemoteFinished] = Batcher(
            self._finish,
            limit=FINISH_BATCH_ITEMS,
            weigh=_weight,
            must_run_alone=lambda finish: not finish.outcome.is_plain,
            patience=Patience(seconds=HELD_SECONDS),
        )

    async def append(self, append: RemoteAppend) -> RemoteAppended:
        """Write events of an attempt. Raises LeaseLost, Conflict, Busy."""
        return await self._appends.submit(append)

    async def finish(self, finish: RemoteFinish) -> RemoteFinished:
        """End an attempt. Raises LeaseLost, Conflict, Busy."""
        return await self._finishes.submit(finish)

    def hint_started(self, claim: Claim) -> None:
        """Tell readers of the log that an attempt has started."""
        self._notifier.hint(EVENTS, event_hint(claim.message_id, claim.thread))

    async def _append(self, batch: Sequence[RemoteAppend], patient: bool) -> list[RemoteAppended | Exception]:
        began = time.monotonic()
        if batch[0].sends is not None:
            answers = [await self._store.append_and_send(batch[0], patient)]
        else:
            answers = await self._store.append(batch, patient)
        self._moments.appended(batch, answers, began)
        for append, answer in zip(batch, answers, strict=True):
            if answer.status == "ok":
                self._notifier.hint(EVENTS, event_hint(append.message_id, answer.thread))
        return [_refusal(answer.status) or answer for answer in answers]

    async def _finish(self, batch: Sequence[RemoteFinish], patient: bool) -> list[RemoteFinished | Exception]:
        began = time.monotonic()
        if not batch[0].outcome.is_plain:
            answers = [await self._store.conclude(batch[0], patient)]
        else:
            answers = await self._store.finish(batch, patient)
        self._moments.ended(batch, answers, began)
        for finish, answer in zip(batch, answers, strict=True):
            if answer.status not in {"lost", "gap", "busy"}:
                self._hint_ended(finish, answer)
        return [_refusal(answer.status) or answer for answer in answers]

    def _hint_ended(self, finish: RemoteFinish, answer: RemoteFinished) -> None:
        """Tell readers of the log, the workers if the message or the next one of its thread may be claimed, and the
        router if the subscription may deliver another record."""
        self._notifier.hint(EVENTS, event_hint(finish.message_id, answer.thread))
        if answer.queue is not None and (answer.thread is not None or answer.status == "queued"):
            self._notifier.hint(WORK, answer.queue)
        if answer.subscription is not None and answer.status != "queued":
            self._notifier.hint(RECORDS, answer.subscription)


def _refusal(status: str) -> Exception | None:
    match status:
        case "lost":
            return LeaseLost(LEASE_LOST_DETAIL)
        case "gap":
            return Conflict(GAP_DETAIL)
        case "busy":
            return Busy("Another transaction holds the thread or its log: try again.")
    return None


def _weight(item: RemoteAppend | RemoteFinish) -> int:
    """For how many items it counts in a batch."""
    return 1 + item.characters // ITEM_CHARACTERS
