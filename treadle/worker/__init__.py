"""A remote worker: agents that run in your own program, and reach the server over HTTP only.

from treadle import Context, Worker, agent

@agent("shout")
async def shout(context: Context, text: str) -> str:
    await context.emit(text.upper())
    return text.upper()

Worker(shout, url="http://localhost:8000").run()
"""

from treadle.worker.context import NotRemote
from treadle.worker.worker import Worker

__all__ = ["NotRemote", "Worker"]
