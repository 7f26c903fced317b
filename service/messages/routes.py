"""/messages: submit, status, cancel, input, redrive."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody

from service.config import Settings
from service.errors import Unprocessable
from service.limits import KEY_RULE, MAX_KEY_CHARS
from service.messages.model import (
    Accepted,
    AcceptedBatch,
    Answered,
    Cancelled,
    NewBatch,
    NewInput,
    NewMessage,
    Redriven,
    Status,
)
from service.messages.store import MessageStore
from service.messages.validation import check, check_input
from service.params import MessageId, parse_message_id

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Repeat a request under the same key to get the first answer; kept 24 hours.",
    ),
]


@post("/messages", status_code=202, summary="Submit a message")
async def submit(
    request: Request[Any, Any, Any],
    data: JSONBody[NewMessage],
    messages: NamedDependency[MessageStore],
    settings: NamedDependency[Settings],
    idempotency_key: IdempotencyKey = None,
) -> Response[Accepted]:
    """The answer comes after the commit: an accepted message cannot be lost."""
    check([data], settings, batch=False)
    if idempotency_key is None:
        accepted = await messages.submit(data)
    else:
        [accepted] = await messages.submit_once(_key(idempotency_key), _hash(request, [data]), [data])
    return Response(accepted, status_code=202, headers={"Location": f"/messages/{accepted.message_id}/status"})


@post("/messages/batch", status_code=202, summary="Submit up to 1,000 messages, all or nothing")
async def submit_batch(
    request: Request[Any, Any, Any],
    data: JSONBody[NewBatch],
    messages: NamedDependency[MessageStore],
    settings: NamedDependency[Settings],
    idempotency_key: IdempotencyKey = None,
) -> AcceptedBatch:
    check(data.messages, settings, batch=True)
    if idempotency_key is None:
        return AcceptedBatch(await messages.submit_batch(data.messages))
    return AcceptedBatch(
        await messages.submit_once(_key(idempotency_key), _hash(request, data.messages), data.messages)
    )


@get("/messages/{message_id:str}/status", summary="Where a message stands")
async def status(message_id: MessageId, messages: NamedDependency[MessageStore]) -> Status:
    return await messages.status(parse_message_id(message_id))


@delete(
    "/messages/{message_id:str}",
    status_code=200,
    summary="Cancel a message",
    responses={202: ResponseSpec(Cancelled, description="It runs: its cancellation is requested of the worker.")},
)
async def cancel(message_id: MessageId, messages: NamedDependency[MessageStore]) -> Response[Cancelled]:
    """200 where it was queued and is cancelled now; 202 where it runs: the agent is stopped within a second."""
    parsed = parse_message_id(message_id)
    if await messages.cancel(parsed) == "cancelled":
        return Response(Cancelled("The message is cancelled.", parsed), status_code=200)
    return Response(
        Cancelled("The cancellation is requested of the worker that runs the message.", parsed), status_code=202
    )


@post("/messages/{message_id:str}/input", status_code=202, summary="Answer the question that a message waits with")
async def give_input(
    message_id: MessageId,
    data: JSONBody[NewInput],
    messages: NamedDependency[MessageStore],
    settings: NamedDependency[Settings],
) -> Answered:
    """409 where it does not wait for input, or asks another question than the one named."""
    check_input(data, settings)
    parsed = parse_message_id(message_id)
    return Answered(parsed, await messages.input(parsed, data))


@post("/messages/{message_id:str}/redrive", status_code=202, summary="Give a failed message a new life")
async def redrive(message_id: MessageId, messages: NamedDependency[MessageStore]) -> Redriven:
    parsed = parse_message_id(message_id)
    await messages.redrive(parsed)
    return Redriven(parsed, "queued")


def _key(text: str) -> str:
    if not 1 <= len(text) <= MAX_KEY_CHARS:
        raise Unprocessable(f"Idempotency-Key must be {KEY_RULE}.")
    return text


def _hash(request: Request[Any, Any, Any], messages: Sequence[NewMessage]) -> bytes:
    """Of what is asked, however it is written: neither white space nor the order of keys counts."""
    body = msgspec.json.encode(messages, order="sorted")
    return hashlib.sha256(request.url.path.encode() + b"\n" + body).digest()
