"""Runs a message as a task of another system."""

import asyncio
import contextlib
import hashlib
import itertools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import httpx
from a2a.client import Client
from a2a.client.errors import A2AClientError
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import A2AError, TaskNotFoundError

from service.agents.adapters.a2a.connection import connected
from service.agents.adapters.a2a.errors import mapped
from service.agents.adapters.a2a.parts import make_parts, read_parts
from service.agents.adapters.a2a.shown import Shown
from service.agents.contract import Context, Rejected, RetryAfter
from service.limits import MAX_ERROR_CHARS
from service.waiting import retrieve_exception

AGAIN_SECONDS = 1.0  # between two looks at a task that cannot be followed
CANCEL_SECONDS = 0.4  # the attempt waits so long for a cancel at the other system; the cancel itself goes on
MAX_CANCEL_SECONDS = 30.0  # after which a cancel is given up


class _Ended(Rejected):
    """The task is over, and has no result."""


class _Completed(Exception):
    """Carries the result out of its step, so that the step stores nothing: completing the message stores it."""

    def __init__(self, result: Any) -> None:
        self.result = result


class _Progress:
    """What an attempt has begun at the other system."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.sending: asyncio.Task[dict[str, Any]] | None = None


class Remote:
    def __init__(self, name: str, url: str, headers: dict[str, str]) -> None:
        self._name = name
        self._url = url
        self._headers = headers
        self._tls: ssl.SSLContext | None = None
        self._cancels: set[asyncio.Task[None]] = set()

    async def run(self, context: Context, message: Any) -> Any:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._client())
            progress = _Progress()
            work = asyncio.create_task(self._work(client, context, message, progress))
            stack.push_async_callback(_end, work)
            try:
                # In a task of its own: anyio, which the client uses, replaces the reason of some cancellations.
                await asyncio.wait({work})
            except asyncio.CancelledError as error:
                await _end(work)
                if error.args[:1] == ("cancelled",):
                    await self._cancel(client, progress, stack.pop_all())
                elif progress.sending is not None:
                    await _end(progress.sending)
                raise
            return work.result()

    async def _work(self, client: Client, context: Context, message: Any, progress: _Progress) -> Any:
        has_followed = False

        async def begin() -> dict[str, Any]:
            progress.sending = asyncio.create_task(self._begin(client, context, message, number))
            return await asyncio.shield(progress.sending)

        async def follow() -> str:
            nonlocal has_followed
            has_followed = True
            return await self._reason_of_its_end(client, context, progress.begun, number)

        try:
            for number in itertools.count(1):  # a redrive begins another task in place of one that has failed
                progress.begun, step = {}, "a2a task" if number == 1 else f"a2a task {number}"
                progress.begun = await context.step(step, begin)
                if "message" in progress.begun:
                    return progress.begun["message"]
                self._keep_context(context, progress.begun["context"])
                reason = await context.step(f"{step} ended", follow)
                if has_followed:
                    raise Rejected(reason)
        except _Completed as completed:
            return completed.result

    async def _begin(self, client: Client, context: Context, message: Any, number: int) -> dict[str, Any]:
        """The ids of the new task, or the answer of an agent that makes none."""
        named = context.message_id if number == 1 else f"{context.message_id} task {number}"
        said = Message(
            message_id=named,  # the same in each attempt: an answer may have been lost
            role=Role.ROLE_USER,
            parts=make_parts(message),
            context_id=self._kept_context(context),
        )
        request = SendMessageRequest(message=said, configuration=SendMessageConfiguration(return_immediately=True))
        with mapped():
            async with _closing(client.send_message(request)) as events:
                async for event in events:
                    if event.HasField("task"):
                        return {"task": event.task.id, "context": event.task.context_id}
                    if event.HasField("message"):
                        return {"message": read_parts(event.message.parts)}
        raise ConnectionError("The agent did not say which task it began.")

    async def _reason_of_its_end(self, client: Client, context: Context, begun: dict[str, Any], number: int) -> str:
        """Follows the task, and returns why it has ended without a result, or is unknown: both stay so. Raises
        _Completed with the result of one that has completed, and every error that another attempt may change."""
        try:
            with mapped():
                result = await self._follow(client, context, begun, number)
        except Rejected as error:
            if isinstance(error, _Ended) or isinstance(error.__cause__, TaskNotFoundError):
                return str(error)[:MAX_ERROR_CHARS]
            raise
        raise _Completed(result)

    async def _follow(self, client: Client, context: Context, begun: dict[str, Any], number: int) -> Any:
        """The result, once the task has one. Raises _Ended, Rejected."""
        shown = Shown(context)
        while True:
            task = await self._until_settled(client, begun["task"], shown)
            state = TaskState.Name(task.status.state)
            if state == "TASK_STATE_COMPLETED":
                return shown.result(task.status.message.parts)
            if state != "TASK_STATE_INPUT_REQUIRED":
                raise _Ended(_said_at_the_end(state, task.status))
            await self._ask(client, context, begun, task.status, number)

    async def _ask(
        self, client: Client, context: Context, begun: dict[str, Any], status: TaskStatus, number: int
    ) -> None:
        """Ask our client, and give the answer to the task. Another task may ask under the same id."""
        named = status.message.message_id or hashlib.sha256(status.SerializeToString(deterministic=True)).hexdigest()
        if number > 1:
            named = f"{begun['task']} {named}"
        answer = await context.input(read_parts(status.message.parts) or None, name=f"a2a question {named}"[:200])
        step = f"a2a answer {named}"[:200]
        given = False

        async def give() -> None:
            nonlocal given
            given = True
            await self._answer(client, f"{context.message_id} {named}", begun, answer)

        await context.step(step, give)
        if not given:  # an earlier attempt gave it, and the task has not seen it yet
            await asyncio.sleep(AGAIN_SECONDS)

    async def _answer(self, client: Client, message_id: str, begun: dict[str, Any], answer: Any) -> None:
        said = Message(
            message_id=message_id,
            role=Role.ROLE_USER,
            parts=make_parts(answer),
            task_id=begun["task"],
            context_id=begun["context"],
        )
        request = SendMessageRequest(message=said, configuration=SendMessageConfiguration(return_immediately=True))
        with mapped():
            async with _closing(client.send_message(request)) as events:
                async for _ in events:
                    return

    async def _until_settled(self, client: Client, task_id: str, shown: Shown) -> Task:
        """Follow the task until it is over or asks for something."""
        must_pause = False
        while True:
            task = await client.get_task(GetTaskRequest(id=task_id))
            await shown.take(task.artifacts)
            if _is_settled(task.status):
                return task
            try:
                looks_settled = await self._watch(client, task_id, shown)
            except (A2AError, A2AClientError, NotImplementedError):
                # It is over, the agent has no streams, its server stops, or the connection broke: the next look says.
                looks_settled = False
            if must_pause or not looks_settled:
                await asyncio.sleep(AGAIN_SECONDS)
            must_pause = True  # at a stream that says something else than the next look, too

    async def _watch(self, client: Client, task_id: str, shown: Shown) -> bool:
        """Pass on a stream of the task. Whether the task is over or asks for something, as far as the stream says."""
        async with _closing(client.subscribe(SubscribeToTaskRequest(id=task_id))) as events:
            async for event in events:
                if event.HasField("task"):
                    await shown.take(event.task.artifacts)
                    if _is_settled(event.task.status):
                        return True
                elif event.HasField("artifact_update"):
                    await shown.update(event.artifact_update.artifact, append=event.artifact_update.append)
                elif event.HasField("status_update"):
                    if _is_settled(event.status_update.status):
                        return True
                    await shown.tell(event.status_update.status)
        return False

    async def _cancel(self, client: Client, progress: _Progress, stack: contextlib.AsyncExitStack) -> None:
        """Cancel the task that was begun, or that the other system is about to name. `stack` closes the client."""

        async def cancel() -> None:
            async with stack:
                with contextlib.suppress(Exception):  # it is over, or out of reach
                    async with asyncio.timeout(MAX_CANCEL_SECONDS):
                        known = progress.begun or (await progress.sending if progress.sending else {})
                        if "task" in known:
                            await _persist_cancel(client, known["task"])

        cancelling = asyncio.create_task(cancel())
        self._cancels.add(cancelling)
        cancelling.add_done_callback(self._cancels.discard)
        await asyncio.wait({cancelling}, timeout=CANCEL_SECONDS)

    def _client(self) -> AbstractAsyncContextManager[Client]:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()  # slow, so it is made once
        return connected(self._url, self._headers, self._tls)

    def _kept_context(self, context: Context) -> str:
        """The context of the other system in which the thread's messages are."""
        kept = context.memory.get("a2a")
        found = kept.get(self._name) if isinstance(kept, dict) else None
        return found if isinstance(found, str) else ""

    def _keep_context(self, context: Context, context_id: str) -> None:
        if context.thread_id is not None and context_id:
            kept = context.memory.get("a2a")
            context.memory["a2a"] = {**(kept if isinstance(kept, dict) else {}), self._name: context_id}


async def _persist_cancel(client: Client, task: str) -> None:
    """Cancel the task; again where the other system did not answer as it should. Raises Rejected: it is over."""
    while True:
        try:
            with mapped():
                await client.cancel_task(CancelTaskRequest(id=task))
                return
        except (OSError, RetryAfter, RuntimeError):
            await asyncio.sleep(AGAIN_SECONDS)


def _closing(
    stream: AsyncIterator[StreamResponse],
) -> AbstractAsyncContextManager[AsyncGenerator[StreamResponse, None]]:
    """Close the connection of a stream that is not read to its end."""
    return contextlib.aclosing(cast("AsyncGenerator[StreamResponse, None]", stream))


async def _end(task: asyncio.Task[Any]) -> None:
    """End a task whose result is not awaited any more."""
    task.add_done_callback(retrieve_exception)
    task.cancel()
    await asyncio.wait({task})


def _is_settled(status: TaskStatus) -> bool:
    """Whether the task is over or waits for something."""
    return status.state not in (
        TaskState.TASK_STATE_UNSPECIFIED,
        TaskState.TASK_STATE_SUBMITTED,
        TaskState.TASK_STATE_WORKING,
    )


def _said_at_the_end(state: str, status: TaskStatus) -> str:
    what = state.removeprefix("TASK_STATE_").lower().replace("_", " ")
    said = read_parts(status.message.parts)
    reason = f": {said}".rstrip(".") if said else ""
    return f"The task of the other agent ended as {what}{reason}."
