"""Begins a response: submits a message, or answers the question that one waits with."""

from typing import Any, NamedTuple

from service.access.principal import Principal
from service.errors import Busy, Conflict, NotFound, Unprocessable
from service.events.answers import ASK, calls_of
from service.events.questions import give_answer, last_question, match_answers, question_at
from service.limits import HISTORY_EXCHANGES, JSON_PAGE_BYTES, THREAD_ID_RULE, is_thread_id
from service.messages.model import NewInput, NewMessage, Status
from service.messages.validation import validate_input, validate_messages
from service.params import hash_request, parse_key
from service.protocols.openai.conversation_items import said_before
from service.protocols.openai.errors import NotWaiting, UnknownPrevious, carried_out
from service.protocols.openai.ids import ResponseId, new_conversation, parse_call, parse_response
from service.protocols.openai.inputs import (
    Given,
    keep_completion,
    keep_response,
    read_completion,
    read_response,
    to_message,
)
from service.protocols.openai.model import NewCompletion, NewResponse
from service.protocols.openai.references import resolve_references
from service.protocols.openai.services import OpenAIServices

FOREIGN_CALLS = "The outputs must be those of function calls of this server."
NOT_WAITING = "The response does not wait for these outputs: they were sent before, or it is over."
ONE_PLACE = "Send previous_response_id or conversation, not both."
WAITS_FOR_OUTPUTS_DETAIL = "The previous response waits for the outputs of its function calls."


class Begun(NamedTuple):
    """`is_repeatable`: the same request again begins this response, and no other one."""

    response_id: ResponseId
    message: Status
    is_repeatable: bool = False


class Continuation(NamedTuple):
    """What a new message continues: its thread, and the `history` before it outside of this thread."""

    thread_id: str | None
    history: list[Any]


async def begin_response(
    services: OpenAIServices, principal: Principal, request: NewResponse, key: str | None
) -> Begun:
    """`key`: an Idempotency-Key. Raises what refuses the request."""
    items = request.input
    if isinstance(items, list):
        items = await resolve_references(services, principal, items)
    conversation = _conversation(request)
    if conversation is not None and request.previous_response_id is None:
        own = [{"role": "user", "content": items}] if isinstance(items, str) else items or []
        if before := await said_before(services, principal, conversation):
            items = [*before, *own]
    given = read_response(request, items)
    if given.outputs:
        return await _answer_calls(services, principal, given.outputs)
    if request.conversation is not None and request.previous_response_id is not None:
        raise Unprocessable(ONE_PLACE)
    if request.previous_response_id is None:
        continuation = _continuation(principal, request)
    else:
        previous = await _previous(services, principal, request.previous_response_id)
        if previous.message.asks is not None:
            return await _answer_question(services, principal, previous, given)
        continuation = await _continue_after(services, principal, previous.message, request)
    given = given._replace(history=[*continuation.history, *given.history])
    kept = keep_response(request, conversation)
    message = to_message(request, given, kept, continuation.thread_id)
    return await _submit(services, principal, request, message, key)


async def begin_completion(
    services: OpenAIServices, principal: Principal, request: NewCompletion, key: str | None
) -> Begun:
    """Raises what refuses the request."""
    if request.n not in (None, 1):
        raise Unprocessable("n must be 1.")
    given = read_completion(request)
    if given.outputs:
        return await _answer_calls(services, principal, given.outputs)
    message = to_message(request, given, keep_completion(request), principal.thread_id)
    return await _submit(services, principal, request, message, key)


async def _submit(
    services: OpenAIServices,
    principal: Principal,
    request: NewResponse | NewCompletion,
    message: NewMessage,
    key: str | None,
) -> Begun:
    validate_messages([message], services.settings, in_batch=False)
    if key is None:
        accepted = await services.messages.submit(principal, message)
    else:
        request_hash = hash_request(type(request).__name__, [request])
        with carried_out(is_repeatable=True):
            [accepted] = await services.messages.submit_once(principal, parse_key(key), request_hash, [message])
    response_id = ResponseId(accepted.message_id)
    with carried_out(response_id, is_repeatable=key is not None):
        status = await services.message(principal, accepted.message_id)
    return Begun(response_id, status, is_repeatable=key is not None)


def _conversation(request: NewResponse) -> str | None:
    """The id of the conversation that the request names. Raises Unprocessable."""
    given = request.conversation
    conversation = given.get("id") if isinstance(given, dict) else given
    if conversation is not None and not (isinstance(conversation, str) and is_thread_id(conversation)):
        raise Unprocessable(f"The id of a conversation must be {THREAD_ID_RULE}.")
    return conversation


def _continuation(principal: Principal, request: NewResponse) -> Continuation:
    conversation = _conversation(request) or principal.thread_id
    if conversation is None and request.store is not False:
        conversation = new_conversation()
    return Continuation(conversation, [])


async def _continue_after(
    services: OpenAIServices, principal: Principal, previous: Status, request: NewResponse
) -> Continuation:
    """In the thread of the previous response, if that is the last one there. Else in a new thread, whose history is all
    that led to the previous response."""
    given = previous.metadata.get("history")
    history = given if isinstance(given, list) else []
    if previous.thread_id is None:
        own = [{"message": previous.user_message, "result": previous.result}] if previous.state == "completed" else []
        return Continuation(_continuation(principal, request).thread_id, [*history, *own])
    place = await services.threads.message_place(previous.message_id)
    if place is None:
        raise UnknownPrevious("The previous response was deleted.")
    if place.is_last:
        return Continuation(previous.thread_id, history)
    before = await services.threads.exchanges(place.thread, place.ord + 1, HISTORY_EXCHANGES, False, JSON_PAGE_BYTES)
    exchanges = [{"message": exchange.message, "result": exchange.result} for exchange in before]
    return Continuation(new_conversation(), [*history, *exchanges])


async def _previous(services: OpenAIServices, principal: Principal, text: str) -> Begun:
    """Raises UnknownPrevious."""
    try:
        response_id = parse_response(text)
        return Begun(response_id, await services.message(principal, response_id.message_id))
    except NotFound:
        raise UnknownPrevious(f"There is no response {text[:100]!r}.") from None


async def _answer_question(services: OpenAIServices, principal: Principal, previous: Begun, given: Given) -> Begun:
    """What the user says is the answer to a question that is no function call. Raises NotWaiting."""
    message_id, after = previous.response_id
    asked = await last_question(services.follower, message_id, after)
    if asked is None:
        raise NotWaiting(NOT_WAITING)
    [(name, _), *others] = calls_of(asked.question)
    if name != ASK or others:
        raise NotWaiting(WAITS_FOR_OUTPUTS_DETAIL)
    response_id = ResponseId(message_id, asked.seq)
    # A repeat would submit a message, because the question has an answer then.
    status = await _give(services, principal, response_id, asked.name, given.message, is_repeatable=False)
    return Begun(response_id, status)


async def _answer_calls(services: OpenAIServices, principal: Principal, outputs: dict[str, Any]) -> Begun:
    """The outputs of the last calls count: a client that keeps the conversation sends the earlier ones again. Raises
    NotFound, NotWaiting, Unprocessable."""
    calls = [(parse_call(call), output) for call, output in outputs.items()]
    last, _ = calls[-1]
    if last is None:
        raise NotWaiting(FOREIGN_CALLS)
    response_id = ResponseId(last.message_id, last.asked)
    await services.message(principal, response_id.message_id)
    question = await question_at(services.follower, response_id.message_id, response_id.after)
    if question is None:
        raise NotWaiting(FOREIGN_CALLS)
    place = response_id.message_id, response_id.after
    by_number = {call.number: output for call, output in calls if call and (call.message_id, call.asked) == place}
    value = match_answers(question.question, by_number)
    status = await _give(services, principal, response_id, question.name, value, is_repeatable=True)
    return Begun(response_id, status, is_repeatable=True)


async def _give(
    services: OpenAIServices,
    principal: Principal,
    response_id: ResponseId,
    name: str,
    value: Any,
    *,
    is_repeatable: bool,
) -> Status:
    """Raises NotWaiting, unless the question has this answer already."""
    given = NewInput(value, name=name)
    validate_input(given, services.settings)
    message_id, after = response_id
    try:
        with carried_out(response_id, is_repeatable=is_repeatable, is_carried_out=False):
            await give_answer(services.follower, services.messages, principal, message_id, after, given)
    except Busy:
        raise
    except Conflict:
        raise NotWaiting(NOT_WAITING) from None
    with carried_out(response_id, is_repeatable=is_repeatable):
        return await services.message(principal, message_id)
