"""/messages: submit, status, change, cancel, input, redrive."""

import re
from contextlib import suppress
from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, QueryParameter

from service.access.authenticator import require
from service.access.principal import Principal
from service.config import Settings
from service.errors import Conflict, LimitReached, NotFound, QueueFull, Unauthorized
from service.limits import MAX_BATCH_MESSAGES, MAX_WAIT_SECONDS, WAIT_RULE
from service.messages.model import (
    Accepted,
    AcceptedBatch,
    Answered,
    Cancelled,
    Explanation,
    MessageChanges,
    NewBatch,
    NewInput,
    NewMessage,
    Redriven,
    RetryPlace,
    Status,
)
from service.messages.store import MessageStore
from service.messages.validation import validate_input, validate_messages, validate_metadata
from service.messages.waiter import Waiter
from service.params import IdempotencyKey, MessageId, hash_request, parse_key, parse_message_id
from service.refusals import refusals

Wait = Annotated[float, QueryParameter(ge=0, le=MAX_WAIT_SECONDS, description=WAIT_RULE)]
Prefer = Annotated[
    str | None, HeaderParameter(name="Prefer", description="`wait=10` is the same as the query parameter (RFC 7240).")
]
PREFERRED = re.compile(r"wait=([0-9]{1,6})")


@post(
    "/messages",
    operation_id="submitMessage",
    scope="submit",
    stays_open="wait",
    status_code=202,
    summary="Submit a message",
    description="With `wait`, the answer is 200 with the state of the message if it is over in time.",
    responses={
        200: ResponseSpec(Status, description="The message is over; asked with `wait`."),
        **refusals(Conflict, QueueFull),
    },
    response_headers=[
        ResponseHeader(name="Location", description="The path of the message's status.", documentation_only=True)
    ],
)
async def submit(
    request: Request[Any, Any, Any],
    data: JSONBody[NewMessage],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    settings: NamedDependency[Settings],
    waiter: NamedDependency[Waiter],
    idempotency_key: IdempotencyKey = None,
    wait: Wait = 0.0,
    prefer: Prefer = None,
) -> Response[Accepted]:
    """The response follows the commit: an accepted message is not lost."""
    seconds = seconds_to_wait(wait, prefer)
    if seconds:
        require(principal, "read")
    validate_messages([data], settings, in_batch=False)
    if idempotency_key is None:
        accepted = await messages.submit(principal, data)
    else:
        key, request_hash = parse_key(idempotency_key), hash_request(request.url.path, [data])
        [accepted] = await messages.submit_once(principal, key, request_hash, [data])
    headers = {"Location": f"/messages/{accepted.message_id}/status"}
    if prefer and seconds:
        headers["Preference-Applied"] = f"wait={seconds:g}"
    answer: Any = accepted
    over = False
    with suppress(Unauthorized):  # the message is accepted, whatever becomes of the caller's access while it waits
        over = bool(seconds) and await waiter.until_over(principal, accepted.message_id, seconds)
    if over:
        answer = await messages.status(principal, accepted.message_id)
    return Response(answer, status_code=200 if over else 202, headers=headers)


@post(
    "/messages/batch",
    operation_id="submitMessages",
    scope="submit",
    status_code=202,
    summary=f"Submit up to {MAX_BATCH_MESSAGES:,} messages: all of them or none",
    description="The refusal of one of several messages begins with its place, as in `messages[1]: `.",
    responses=refusals(Conflict, QueueFull),
)
async def submit_batch(
    request: Request[Any, Any, Any],
    data: JSONBody[NewBatch],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    settings: NamedDependency[Settings],
    idempotency_key: IdempotencyKey = None,
) -> AcceptedBatch:
    validate_messages(data.messages, settings, in_batch=True)
    if idempotency_key is None:
        return AcceptedBatch(await messages.submit_batch(principal, data.messages))
    key, request_hash = parse_key(idempotency_key), hash_request(request.url.path, data.messages)
    return AcceptedBatch(await messages.submit_once(principal, key, request_hash, data.messages))


@get(
    "/messages/{message_id:str}/status",
    operation_id="getMessage",
    scope="read",
    stays_open="wait",
    summary="Get the state of a message",
    description="With `wait`, once it is over or asks a question, at the latest after so many seconds.",
    responses=refusals(NotFound),
)
async def get_status(
    message_id: MessageId,
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    waiter: NamedDependency[Waiter],
    wait: Wait = 0.0,
    prefer: Prefer = None,
) -> Status:
    parsed = parse_message_id(message_id)
    if seconds := seconds_to_wait(wait, prefer):
        await waiter.until_over(principal, parsed, seconds)
    return await messages.status(principal, parsed)


@get(
    "/messages/{message_id:str}/explain",
    operation_id="explainMessage",
    scope="read",
    summary="Explain why a message has not finished",
    description="One sentence for each reason, the nearest first, with what to do.",
    responses=refusals(NotFound),
)
async def explain(
    message_id: MessageId, principal: NamedDependency[Principal], messages: NamedDependency[MessageStore]
) -> Explanation:
    return await messages.explain(principal, parse_message_id(message_id))


@patch(
    "/messages/{message_id:str}",
    operation_id="changeMessage",
    scope="submit",
    summary="Change the priority, the delay or the metadata of a queued message",
    description="409: the message is not queued, or has begun and is to be delayed.",
    responses=refusals(NotFound, Conflict, LimitReached),
)
async def change(
    message_id: MessageId,
    data: JSONBody[MessageChanges],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
) -> Status:
    validate_metadata(data.metadata)
    parsed = parse_message_id(message_id)
    await messages.change(principal, parsed, data)
    return await messages.status(principal, parsed)


@delete(
    "/messages/{message_id:str}",
    operation_id="cancelMessage",
    scope="submit",
    status_code=200,
    summary="Cancel a message",
    description="200: the message was queued and is cancelled. 202: it is running, and its agent is stopped within"
    " about a second.",
    responses={
        202: ResponseSpec(Cancelled, description="The message is running; the worker was asked to cancel it."),
        **refusals(NotFound, Conflict),
    },
)
async def cancel(
    message_id: MessageId, principal: NamedDependency[Principal], messages: NamedDependency[MessageStore]
) -> Response[Cancelled]:
    parsed = parse_message_id(message_id)
    if await messages.cancel(principal, parsed) == "cancelled":
        return Response(Cancelled("The message is cancelled.", parsed), status_code=200)
    return Response(Cancelled("The worker that runs the message was asked to cancel it.", parsed), status_code=202)


@post(
    "/messages/{message_id:str}/input",
    operation_id="answerMessage",
    scope="submit",
    status_code=202,
    summary="Answer the question of a message that waits for input",
    description="409: the message does not wait for input, or asks another question than the one named.",
    responses=refusals(NotFound, Conflict, LimitReached),
)
async def give_input(
    message_id: MessageId,
    data: JSONBody[NewInput],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    settings: NamedDependency[Settings],
) -> Answered:
    validate_input(data, settings)
    parsed = parse_message_id(message_id)
    return Answered(parsed, await messages.input(principal, parsed, data))


@post(
    "/messages/{message_id:str}/redrive",
    operation_id="redriveMessage",
    scope="operate",
    status_code=202,
    summary="Queue a failed message again",
    responses=refusals(NotFound, Conflict),
)
async def redrive(
    message_id: MessageId, principal: NamedDependency[Principal], messages: NamedDependency[MessageStore]
) -> Redriven:
    """Its failures are forgiven; its attempts go on counting."""
    parsed = parse_message_id(message_id)
    await messages.redrive(principal, parsed)
    return Redriven(parsed, "queued")


@post(
    "/messages/{message_id:str}/retry",
    operation_id="retryMessage",
    scope="operate",
    status_code=202,
    summary="Run a message that is over again, from one of its steps",
    description="The results of the steps before it are kept. 409: the message is not over, or keeps no result of the"
    " step.",
    responses=refusals(NotFound, Conflict),
)
async def retry(
    message_id: MessageId,
    data: JSONBody[RetryPlace],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
) -> Redriven:
    parsed = parse_message_id(message_id)
    return Redriven(parsed, await messages.retry(principal, parsed, data.step))


# The router of service/inspection serves these, too: its handlers have the same paths, and Litestar takes a path from
# one router only.
handlers = [submit, submit_batch, get_status, explain, change, cancel, give_input, redrive, retry]


def seconds_to_wait(wait: float, prefer: str | None) -> float:
    """The query decides, else the preference, which is met as far as possible."""
    if not wait and (preferred := PREFERRED.search(prefer or "")):
        return min(float(preferred[1]), MAX_WAIT_SECONDS)
    return wait
