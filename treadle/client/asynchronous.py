"""The client for asyncio."""

from treadle.client.messages import Messages
from treadle.client.queues import Queues
from treadle.client.threads import Threads


class AsyncClient(Messages, Threads, Queues):
    """A client of one server.

    async with AsyncClient("http://localhost:8000") as client:
        print(await client.run("hello", agent="echo"))
    """
