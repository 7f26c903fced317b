"""How far messages that wait are from their turn.

A message is looked up once. From then on, one query a second tells how far the lanes of its queue have come, for all
readers of all their messages, and one the same of threads.
"""

import time
from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import replace

from service.batching import Batcher
from service.events.lines import LinePosition, step
from service.events.store import EventStore

LOOKED_UP_MESSAGES = 1_000  # in one query, which counts each lane once
FOLLOWED_MESSAGES = 10_000  # with one query of the lines
BELIEVED_SECONDS = 5.0  # for which a message is believed to be where no line confirms it


class Positions:
    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._lookups: Batcher[UUID, LinePosition | None] = Batcher(self._look_up, limit=LOOKED_UP_MESSAGES)
        self._steps: Batcher[LinePosition, LinePosition | None] = Batcher(self._step, limit=FOLLOWED_MESSAGES)

    async def follow(self, message_id: UUID, known: LinePosition | None) -> LinePosition | None:
        """Where the message stands now; None if it does not exist. `known`: where it stood, or None if its log has
        grown since then."""
        if known is not None and not known.is_at_head and time.monotonic() < known.believed_until:
            if not known.is_in_line:
                return known
            if (place := await self._steps.submit(known)) is not None:
                return place
        return await self._lookups.submit(message_id)

    async def _look_up(self, message_ids: Sequence[UUID], _: bool) -> list[LinePosition | None]:
        until = time.monotonic() + BELIEVED_SECONDS
        asked = list(dict.fromkeys(message_ids))
        places = dict(zip(asked, await self._store.message_places(asked), strict=True))
        return [
            None if place is None else replace(place, believed_until=until) for place in map(places.get, message_ids)
        ]

    async def _step(self, places: Sequence[LinePosition], _: bool) -> list[LinePosition | None]:
        queues = await self._store.queue_lines({place.queue for place in places})
        threads = {place.thread for place in places if place.thread is not None}
        behind = await self._store.thread_lines(threads) if threads else {}
        until = time.monotonic() + BELIEVED_SECONDS
        steps: list[LinePosition | None] = []
        for place in places:
            if (found := step(place, queues, behind)) is None:
                steps.append(None)
            else:
                told, seen = found
                steps.append(replace(place, told=told, believed_until=until if seen else place.believed_until))
        return steps
