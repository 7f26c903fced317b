"""The client for asyncio."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from treadle.client.chat import Chat
from treadle.client.connection import DEFAULT_URL
from treadle.client.inspection import Inspection
from treadle.client.messages import Messages
from treadle.client.producer import AsyncProducer
from treadle.client.queues import Queues
from treadle.client.threads import Threads
from treadle.client.topics import Topics

if TYPE_CHECKING:
    from treadle.worker.consumer import AsyncConsumer


class AsyncClient(Messages, Inspection, Threads, Topics, Queues):
    """A client of one server.

    async with AsyncClient("http://localhost:8000") as client:
        print(await client.run("hello", agent="echo"))
    """

    def chat(self, thread_id: str, *, agent: str | None = None, last_id: int = 0, log: int | None = None) -> Chat:
        """A chat with a thread over one WebSocket: send messages, and iterate over the events of all of them.

        agent    Of messages that name none; default: that of the thread's last message, or the default agent.
        last_id  The id of the last event that was seen, and
        log      the log that it belongs to (`last_id` and `log` of an earlier chat); default: all events.

        async with client.chat("tour") as chat:
            await chat.send("hello")
            async for event in chat: ...
        """
        url, key = self.address
        address = (url or os.environ.get("TREADLE_URL") or DEFAULT_URL, key)
        return Chat(address, thread_id, agent=agent, last_id=last_id, log=log)

    def producer(self, **options: Any) -> AsyncProducer:
        """A producer, which sends records in batches.

        linger_seconds    How long a record waits for others of its batch (0.005).
        batch_size        Records of a batch, at most 1,000 (500).
        buffer_bytes      From which on `send` waits (10,000,000).
        delivery_seconds  After which a record that cannot be sent is given up (120).
        """
        return AsyncProducer(self, **options)

    def consumer(self, group: str, topics: str | Sequence[str], **options: Any) -> "AsyncConsumer":
        """A consumer of a group, which shares the records of topics (names or patterns) with the others of its group.
        The key needs the scopes `work` and `operate`.

        start          Where a new group begins: `latest` (the default), `earliest`, an offset or a time.
        max_in_flight  Records that this consumer holds at once, at most 1,000 (100).
        delivery       at_least_once (the default), at_most_once or exactly_once.
        max_attempts   Of one record, until it becomes a dead letter; default: that of the installation.
        filter         What the `value` and the `headers` of its records contain; default: anything.
        dead_letter    False: a record that fails for good is dropped and counted.
        """
        from treadle.worker.consumer import AsyncConsumer

        return AsyncConsumer(self, self.address, group, topics, **options)
