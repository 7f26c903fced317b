"""The two sides of a socket: what the client sends, and what the service sends, side by side until one ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.sockets.peer import ClientDisconnected


async def run_sides(receiving: Coroutine[Any, Any, Any], sending: Coroutine[Any, Any, Any]) -> None:
    """Raises what the first of them raises. Where the service finds while it sends that the client has disconnected,
    every frame that the client had sent is still handled: `receiving` ends with ClientDisconnected after the last."""
    receiver, sender = asyncio.create_task(receiving), asyncio.create_task(sending)
    tasks = (receiver, sender)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if sender.done() and isinstance(sender.exception(), ClientDisconnected):
            await asyncio.wait([receiver])
        for task in tasks:
            if task.done() and (error := task.exception()):
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
