"""Calls of tools: each is a message. Its log becomes progress notifications and the result."""

import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from service.access.authenticator import require
from service.access.principal import Principal
from service.errors import CAUSE_IN_LOG, Conflict, NotFound, Refused, TreadleError, Unauthorized
from service.limits import MAX_KEY_CHARS, MAX_THREAD_ID_CHARS, THREAD_ID_RULE, is_thread_id
from service.messages.model import NewMessage
from service.messages.validation import validate_messages
from service.params import hash_request, one_thread_id
from service.protocols.mcp.model import INTERNAL_ERROR, INVALID_PARAMS, Answer, Call, CallRefused, Error, RequestId
from service.protocols.mcp.services import McpServices
from service.protocols.mcp.translate import EventId, ToolCall, progress_of, read_call, result_of
from service.sse_frames import KEEPALIVE, RECONNECT, encode, guarded

log = logging.getLogger(__name__)

LONG_SESSION_CHARS = 100  # processes of an earlier release cut longer ones, and hash nothing


async def begin(services: McpServices, principal: Principal, call: Call, session: str | None) -> EventId:
    """Submit the message of a tools/call. In a session, a repeat of the request finds the message again. Raises
    CallRefused, and what refuses the message."""
    require(principal, "submit")
    assert call.id is not None
    asked = read_call(call.params or {})
    message = _message(asked)
    validate_messages([message], services.settings, in_batch=False)
    if session is None:
        accepted = await services.messages.submit(principal, message)
    else:
        request_hash = hash_request("mcp", [message])
        [accepted] = await services.messages.submit_once(principal, _key(session, call.id), request_hash, [message])
    return EventId(accepted.message_id, 0, call.id, asked.token)


async def cancel(services: McpServices, principal: Principal, params: dict[str, Any], session: str | None) -> None:
    """notifications/cancelled; nothing happens to a call that is over or unknown."""
    request = params.get("requestId")
    if session is None or not isinstance(request, str | int):
        return
    require(principal, "submit")
    message_id = await services.messages.submitted_once(principal, _key(session, request))
    if message_id is not None:
        with contextlib.suppress(Conflict):
            await services.messages.cancel(principal, message_id)


async def wait(services: McpServices, principal: Principal, event_id: EventId) -> Answer:
    """The answer to the call, once it is there."""
    async for entries in services.follower.follow(principal, event_id.message_id, event_id.seq):
        for entry in entries:
            if (result := result_of(entry)) is not None:
                return Answer(event_id.request, result=result)
    raise AssertionError("A log is followed to its end.")


def events(services: McpServices, principal: Principal, event_id: EventId) -> AsyncIterator[bytes]:
    """Progress and the answer as server-sent events, after the place that the client has seen."""
    return guarded("message", _events(services, principal, event_id))


async def _events(services: McpServices, principal: Principal, event_id: EventId) -> AsyncGenerator[bytes, None]:
    yield RECONNECT + f"id: {event_id}\ndata: \n\n".encode()  # the client can come back from the start
    try:
        async for entries in services.follower.follow(principal, event_id.message_id, event_id.seq):
            if not entries:
                yield KEEPALIVE
            for entry in entries:
                event_id = event_id._replace(seq=entry.seq)
                if (result := result_of(entry)) is not None:
                    yield _frame(Answer(event_id.request, result=result), event_id)
                    return
                if (told := progress_of(entry, event_id.token)) is not None:
                    yield _frame(told, event_id)
    except (NotFound, Unauthorized) as error:
        yield _frame(refused(event_id.request, error), event_id)


def refused(call_id: RequestId, error: Exception) -> Answer:
    """The answer to a request that cannot be carried out."""
    if isinstance(error, CallRefused):
        return Answer(call_id, error=Error(error.code, str(error)))
    code = INVALID_PARAMS if isinstance(error, Refused) else INTERNAL_ERROR
    if isinstance(error, TreadleError):
        log.log(error.log_level, "call refused", extra={"error": str(error)})
        return Answer(call_id, error=Error(code, str(error)))
    log.error("call failed", exc_info=error)
    return Answer(call_id, error=Error(code, f"The call failed in the service; {CAUSE_IN_LOG}"))


def _message(asked: ToolCall) -> NewMessage:
    """Raises CallRefused."""
    given = asked.arguments
    if not (isinstance(given.message, dict) or (isinstance(given.message, str) and given.message)):
        raise CallRefused(INVALID_PARAMS, "message must be a text that is not empty, or an object.")
    thread_id = one_thread_id(given.thread_id, given.session_id)
    if thread_id is not None and not is_thread_id(thread_id[: MAX_THREAD_ID_CHARS + 1]):
        raise CallRefused(INVALID_PARAMS, f"thread_id must be {THREAD_ID_RULE}.")
    return NewMessage(given.message, thread_id=thread_id, agent=asked.name)


def _key(session: str, request: RequestId) -> str:
    """The Idempotency-Key of a request, apart from those of POST /messages. The client chooses both parts: where they
    are long, a hash stands for them."""
    key = f"mcp {session} {msgspec.json.encode(request).decode()}"
    if len(key) <= MAX_KEY_CHARS and len(session) <= LONG_SESSION_CHARS:
        return key
    return f"mcp {hashlib.sha256(msgspec.json.encode([session, request])).hexdigest()}"


def _frame(value: Any, event_id: EventId) -> bytes:
    return encode("message", msgspec.json.encode(value).decode(), str(event_id))
