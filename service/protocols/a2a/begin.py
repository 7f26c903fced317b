"""Begins a task: submits a message, or answers the question that one waits with. Both may be repeated."""

import hashlib

import msgspec
import uuid_utils.compat as uuid

from service.errors import Busy, Conflict
from service.events.answers import answers_calls
from service.limits import MAX_THREAD_ID_CHARS, THREAD_ID_RULE, is_thread_id
from service.messages.model import NewInput, NewMessage, Status
from service.messages.validation import validate_input, validate_messages
from service.protocols.a2a import push
from service.protocols.a2a.errors import InvalidParams, UnsupportedOperation
from service.protocols.a2a.inputs import agent_of, check_modes, content_of, metadata_of
from service.protocols.a2a.model import SendParams
from service.protocols.a2a.services import A2AServices, Caller

TASK_AT_WORK_DETAIL = "The task is at work. Send a message without taskId in its context: it is answered next."
TASK_OVER_DETAIL = "The task is over. Send a message without taskId in its context."
OTHER_CONTEXT = "The task belongs to another context: send the contextId of the task, or none."


async def begin(services: A2AServices, caller: Caller, params: SendParams) -> Status:
    """The message of the task. Raises A2AError, and what refuses the message."""
    check_modes(params.settings.accepted_output_modes)
    config = params.settings.task_push_notification_config
    if config is not None:
        await push.check(services, config)
    if (params.settings.history_length or 0) < 0:
        raise InvalidParams("historyLength must not be below 0.")
    begin_or_answer = _answer if params.message.task_id else _submit
    message = await begin_or_answer(services, caller, params)
    if config is not None:  # a task that is over by now tells it at once
        await push.attach(services, caller, message.message_id, config)
    return message


async def _submit(services: A2AServices, caller: Caller, params: SendParams) -> Status:
    content = content_of(params.message)
    if not (isinstance(content, dict) or (isinstance(content, str) and content)):
        raise InvalidParams("The parts must be a text that is not empty, or an object.")
    context = params.message.context_id or caller.principal.thread_id
    if context and not is_thread_id(context[: MAX_THREAD_ID_CHARS + 1]):
        raise InvalidParams(f"contextId must be {THREAD_ID_RULE}.")
    message = NewMessage(
        content,
        thread_id=context or uuid.uuid7().hex,
        agent=caller.agent or agent_of(params),
        metadata=metadata_of(params),
    )
    validate_messages([message], services.settings, in_batch=False)
    key = _key(caller, params)
    [accepted] = await services.messages.submit_once(caller.principal, key, key.encode(), [message])
    return await services.decoded(caller.principal, accepted.message_id)


def _key(caller: Caller, params: SendParams) -> str:
    """The Idempotency-Key of a message or an answer, apart from those of POST /messages. It covers the whole message,
    because some clients send several messages under one messageId."""
    said = msgspec.json.encode([caller.agent, params.message, params.metadata], order="sorted")
    return f"a2a {hashlib.sha256(said).hexdigest()}"


async def _answer(services: A2AServices, caller: Caller, params: SendParams) -> Status:
    """Raises TaskNotFound, UnsupportedOperation, InvalidParams."""
    message = await services.message(caller, params.message.task_id or "")
    if params.message.context_id not in (None, "", message.thread_id):
        raise InvalidParams(OTHER_CONTEXT)
    content, asked = content_of(params.message), message.asks
    wrapped = asked is not None and answers_calls(asked.question) and not isinstance(content, list)
    # Without a question it can only be a repeat: no question has the empty name.
    given = NewInput([content] if wrapped else content, name="" if asked is None else asked.name)
    validate_input(given, services.settings)
    key = _key(caller, params)
    try:
        await services.messages.input_once(caller.principal, message.message_id, key, given)
    except Busy:
        raise
    except Conflict:
        raise UnsupportedOperation(TASK_OVER_DETAIL if message.completed_at else TASK_AT_WORK_DETAIL) from None
    return await services.decoded(caller.principal, message.message_id)
