"""The methods of the protocol, the same for both bindings."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from service.access.authenticator import require
from service.errors import Busy, Conflict
from service.messages.model import Status
from service.protocols.a2a.begin import begin
from service.protocols.a2a.errors import InvalidParams, TaskNotCancelable, UnsupportedOperation
from service.protocols.a2a.model import Json, SendParams, TaskParams
from service.protocols.a2a.services import A2AServices, Caller
from service.protocols.a2a.translate import TaskLog

CANCEL_SECONDS = 3.0  # an answer waits so long for the effect of a cancel; clients give up after five without a byte


class Begun(NamedTuple):
    """A task that a client follows. `history`: see TaskLog.task."""

    message: Status
    history: int | None


async def send(services: A2AServices, caller: Caller, params: SendParams) -> Begun:
    """Raises A2AError, Forbidden, and what refuses the message."""
    require(caller.principal, "submit")
    require(caller.principal, "read")
    return Begun(await begin(services, caller, params), params.settings.history_length)


async def snapshot(services: A2AServices, begun: Begun) -> Json:
    """The task as far as its log goes."""
    task = TaskLog(begun.message)
    await services.read(task)
    return task.task(begun.history)


async def get(services: A2AServices, caller: Caller, params: TaskParams) -> Json:
    """Raises TaskNotFound, InvalidParams, Forbidden."""
    require(caller.principal, "read")
    message = await services.message(caller, params.id)
    return await snapshot(services, Begun(message, checked_length(params.history_length)))


async def subscribe(services: A2AServices, caller: Caller, params: TaskParams) -> Begun:
    """Raises TaskNotFound, UnsupportedOperation, Forbidden."""
    require(caller.principal, "read")
    message = await services.message(caller, params.id)
    if message.completed_at is not None:
        raise UnsupportedOperation("The task is over: get it.")
    return Begun(message, None)


async def cancel(services: A2AServices, caller: Caller, params: TaskParams) -> Json:
    """Raises TaskNotFound, TaskNotCancelable, Forbidden, Busy."""
    require(caller.principal, "submit")
    require(caller.principal, "read")  # the answer has the task
    message = await services.message(caller, params.id)
    try:
        await services.messages.cancel(caller.principal, message.message_id)
    except Busy:
        raise
    except Conflict as error:
        raise TaskNotCancelable(str(error)) from None
    task = TaskLog(message)
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            while not task.is_over:
                async for _ in pages(services, caller, task):
                    pass
    except TimeoutError:
        pass
    return task.task(None)


async def pages(services: A2AServices, caller: Caller, task: TaskLog) -> AsyncIterator[list[Json]]:
    """The events after the last entry that `task` has folded, until the task is settled; an empty list after each
    silence, and for entries that are no events."""
    async for entries in services.follower.follow(caller.principal, task.message_id, task.seq):
        events: list[Json] = []
        for entry in entries:
            events += task.fold(entry)
            if task.is_settled:
                break
        yield events
        if task.is_settled:
            return


def checked_length(length: int | None) -> int | None:
    """Raises InvalidParams."""
    if length is not None and length < 0:
        raise InvalidParams("historyLength must not be below 0.")
    return length
