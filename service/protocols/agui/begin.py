"""Begins a run: submits a message, answers the question that one waits with, or finds the run again."""

import hashlib
from typing import Any

from service.access.principal import Principal
from service.errors import Busy, Conflict, Unprocessable
from service.events.questions import give_answer, is_last_question, match_answers, question_at
from service.messages.model import NewInput, Status
from service.messages.validation import validate_input, validate_messages
from service.protocols.agui.ids import QuestionPart, Run, parse_part
from service.protocols.agui.inputs import read_run, to_message
from service.protocols.agui.model import RunInput
from service.protocols.agui.services import AguiServices

FOREIGN_ANSWER_DETAIL = "Answer an interrupt, or a call of a tool, of this thread: the id is not one of theirs."
NOT_WAITING = "The thread does not wait for this answer: the question has another answer, or its message is over."


class AnswersMissing(Conflict):
    """The thread waits for answers to its interrupts: a run must bring them, in `resume`."""


async def begin(services: AguiServices, principal: Principal, agent: str, asked: RunInput) -> Run:
    """The same run for the same thread and runId. Raises AnswersMissing, and what refuses the request."""
    if asked.resume:
        return await _resume(services, principal, asked)
    key = _key(asked)
    if (known := await services.messages.submitted_once(principal, key)) is not None:
        return Run(known)
    given = read_run(asked)
    if given.results:
        answers = {_part(call): result for call, result in given.results.items()}
        return await _answer(services, principal, asked, answers)
    message = to_message(asked, given, agent, max_state_bytes=services.settings.max_event_bytes)
    validate_messages([message], services.settings, in_batch=False)
    await _refuse_interrupted(services, principal, asked.thread_id)
    [accepted] = await services.messages.submit_once(principal, key, key.encode(), [message])
    return Run(accepted.message_id)


def _key(asked: RunInput) -> str:
    """The Idempotency-Key of a run: apart from those of POST /messages."""
    named = f"{asked.thread_id}\n{asked.run_id}".encode()
    return f"agui {hashlib.sha256(named).hexdigest()}"


async def _refuse_interrupted(services: AguiServices, principal: Principal, thread_id: str) -> None:
    """Raises AnswersMissing."""
    holder = await services.threads.turn_holder(principal, thread_id)
    if holder is not None and holder.asks:
        raise AnswersMissing(f"The thread waits for an answer to the message {holder.message_id}: send it in resume.")


async def _resume(services: AguiServices, principal: Principal, asked: RunInput) -> Run:
    """Raises NotFound, AnswersMissing, Unprocessable."""
    resume = asked.resume or []
    parts = {_part(answer.interrupt_id): answer for answer in resume}
    if all(answer.status == "resolved" for answer in resume):
        answers = {part: answer.payload for part, answer in parts.items()}
        return await _answer(services, principal, asked, answers)
    part = next(part for part, answer in parts.items() if answer.status == "cancelled")
    message = await _check_thread(services, principal, asked, part)
    if message.state == "cancelled":  # a repeat
        return Run(part.message_id, part.asked)
    if message.asks is None or not await is_last_question(services.follower, part.message_id, part.asked):
        raise AnswersMissing(NOT_WAITING)
    await services.messages.cancel_unless_over(principal, part.message_id)
    return Run(part.message_id, part.asked)


async def _answer(
    services: AguiServices, principal: Principal, asked: RunInput, answers: dict[QuestionPart, Any]
) -> Run:
    """The answers to the parts of one question. Raises NotFound, AnswersMissing, Unprocessable."""
    last = list(answers)[-1]
    await _check_thread(services, principal, asked, last)
    question = await question_at(services.follower, last.message_id, last.asked)
    if question is None:
        raise Unprocessable(FOREIGN_ANSWER_DETAIL)
    by_number = {part.number: value for part, value in answers.items() if (part.message_id, part.asked) == last[:2]}
    given = NewInput(match_answers(question.question, by_number), name=question.name)
    validate_input(given, services.settings)
    try:
        await give_answer(services.follower, services.messages, principal, last.message_id, last.asked, given)
    except Busy:
        raise
    except Conflict:
        raise AnswersMissing(NOT_WAITING) from None
    return Run(last.message_id, last.asked)


async def _check_thread(services: AguiServices, principal: Principal, asked: RunInput, part: QuestionPart) -> Status:
    """The message. Raises NotFound, Unprocessable."""
    message = await services.messages.status(principal, part.message_id)
    if message.thread_id != asked.thread_id:
        raise Unprocessable(FOREIGN_ANSWER_DETAIL)
    return message


def _part(text: str) -> QuestionPart:
    """Raises Unprocessable."""
    part = parse_part(text)
    if part is None:
        raise Unprocessable(FOREIGN_ANSWER_DETAIL)
    return part
