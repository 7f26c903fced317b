"""The answers to requests that wait: a stream of events, or the task once it is settled."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from service.protocols.a2a.calls import Begun, pages
from service.protocols.a2a.errors import as_a2a, rest_error, rpc_error
from service.protocols.a2a.model import Answer, Json, RequestId
from service.protocols.a2a.services import A2AServices, Caller
from service.protocols.a2a.translate import TaskLog
from service.sse_frames import KEEPALIVE, encode, encode_unnamed, guarded


class Binding:
    """How results and errors of one request are sent: in REST as they are."""

    def wrap(self, result: Json) -> Any:
        return result

    def error_frame(self, error: Exception) -> bytes:
        """The end of a stream that breaks off."""
        return encode("error", msgspec.json.encode(rest_error(as_a2a(error))).decode())


class RpcBinding(Binding):
    """In JSON-RPC with the id of the request."""

    def __init__(self, request_id: RequestId) -> None:
        self._id = request_id

    def wrap(self, result: Json) -> Any:
        return Answer(self._id, result=result)

    def error_frame(self, error: Exception) -> bytes:
        return encode_unnamed(Answer(self._id, error=rpc_error(as_a2a(error))))


def events(services: A2AServices, caller: Caller, begun: Begun, binding: Binding) -> AsyncIterator[bytes]:
    """The task, and what happens to it, until it is over or waits for an answer."""
    return guarded("message", _events(services, caller, begun, binding))


async def _events(services: A2AServices, caller: Caller, begun: Begun, binding: Binding) -> AsyncGenerator[bytes, None]:
    try:
        task = TaskLog(begun.message)
        await services.read(task)
        yield encode_unnamed(binding.wrap({"task": task.task(begun.history)}))
        if task.is_settled:
            return
        async for page in pages(services, caller, task):
            yield b"".join(encode_unnamed(binding.wrap(event)) for event in page) or KEEPALIVE
    except Exception as error:
        yield binding.error_frame(error)


async def body(services: A2AServices, caller: Caller, begun: Begun, binding: Binding) -> AsyncGenerator[bytes, None]:
    """The task as JSON, once it is over or waits for an answer. Meanwhile line feeds keep the connection open. If this
    server stops, or PostgreSQL does not answer, it is the task so far: its work goes on."""
    task = TaskLog(begun.message)
    try:
        await services.read(task)
        if not task.is_settled:
            async for page in pages(services, caller, task):
                if not page:
                    yield b"\n"
    except Exception as error:
        as_a2a(error)  # logs it, unless it is a refusal
    yield msgspec.json.encode(binding.wrap({"task": task.task(begun.history)}))
