"""Begins a run: submits a message, or answers the question that one waits with."""

from typing import Any, NamedTuple

import msgspec
import uuid_utils.compat as uuid

from service.access.principal import Principal
from service.errors import NotFound, Unprocessable
from service.messages.model import NewInput, NewMessage, OnBusy, labels
from service.messages.validation import validate_input, validate_messages
from service.params import hash_request, parse_key, parse_thread_id
from service.protocols.langgraph.checkpoints import NO_INPUT_HERE, Base, find_base, named_checkpoint, repeated_input
from service.protocols.langgraph.commands import check_command, check_config
from service.protocols.langgraph.conversation import read_told
from service.protocols.langgraph.find import Found, find_run
from service.protocols.langgraph.ids import RunId, assistant_id
from service.protocols.langgraph.lookup.store import ThreadRow
from service.protocols.langgraph.model import MODES, Kept, NewRun
from service.protocols.langgraph.services import LangGraphServices, copied_history
from service.queues.model import Agent

ANSWER_LAST = "command.resume answers the question with which the thread waits: it takes no earlier checkpoint."
ANSWER_ALONE = "command.resume goes alone: without input, update and goto."
LATER_RUN_DETAIL = "A run with after_seconds waits for its turn: multitask_strategy must be enqueue."
NO_GRAPH = "command.update and command.goto are for agents that are LangGraph graphs; send input or command.resume."
NO_INPUT = "input must be an object or a text."
NO_WEBHOOK = "An answer takes no webhook: the one of the run that asked is told of the end of the work."
NO_KEY = (
    "An answer to a question takes no Idempotency-Key: send it without, and look at the thread before you repeat it."
)
NOT_WAITING = "The thread does not wait for an answer."


class Begun(NamedTuple):
    found: Found
    modes: list[str]


async def begin_run(
    services: LangGraphServices, principal: Principal, thread_id: str | None, request: NewRun, key: str | None
) -> Begun:
    """`key`: an Idempotency-Key. Raises what refuses the request."""
    modes = read_modes(request.stream_mode)
    agent = await services.agent(principal, request.assistant_id)
    row, base, place = None, None, f"langgraph {thread_id}"
    request_hash = hash_request(place, [request])
    # A request that is sent again answers no question, and its checkpoint may not be the last one any longer.
    is_repeat = key is not None and await services.messages.submitted_once(principal, parse_key(key)) is not None
    if thread_id is not None:
        row = await _thread(services, principal, parse_thread_id(thread_id), request)
    if row is not None and not is_repeat:
        base = await find_base(services, row, named_checkpoint(request.checkpoint_id, request.checkpoint), agent)
        if base is not None:
            request = _from_checkpoint(request, base)
    if base is None and not is_repeat and _answers(row, request):
        if key is not None:
            raise Unprocessable(NO_KEY)
        if request.webhook is not None:
            raise Unprocessable(NO_WEBHOOK)
        return Begun(await _answer(services, principal, row, request), modes)
    if thread_id is None:
        thread_id = str(uuid.uuid7()) if request.on_completion == "keep" else principal.thread_id
    message = _message(request, agent, thread_id, row, modes, base)
    validate_messages([message], services.settings, in_batch=False)
    if row is not None and not is_repeat:
        await _name_graph(services, principal, row, agent)
    ends_question = not request.after_seconds and _may_wait(principal, thread_id, row)
    run_id = await _submit(services, principal, request_hash, message, key, ends_question=ends_question)
    return Begun(await find_run(services, principal, None, str(run_id)), modes)


def read_modes(given: str | list[str] | None) -> list[str]:
    """Raises Unprocessable."""
    modes = [given] if isinstance(given, str) else given or []
    modes = list(dict.fromkeys(mode for mode in modes if mode)) or ["values"]
    for mode in modes:
        if mode not in MODES:
            raise Unprocessable(f"stream_mode {mode[:50]!r} is unknown: it must be one of {', '.join(sorted(MODES))}.")
    return modes


async def _thread(services: LangGraphServices, principal: Principal, thread_id: str, request: NewRun) -> ThreadRow:
    """Raises NotFound."""
    try:
        return await services.store.thread(principal, thread_id)
    except NotFound:
        if request.if_not_exists != "create":
            raise
    await services.threads.create(principal, thread_id, {})
    return await services.store.thread(principal, thread_id)


def _from_checkpoint(request: NewRun, base: Base) -> NewRun:
    """With the input of the run that it replaces, if it has none. Raises Unprocessable."""
    if request.command is not None and "resume" in request.command:
        raise Unprocessable(ANSWER_LAST)
    if request.input is not None or request.command is not None:
        if base.named.endswith("-1"):
            raise Unprocessable(NO_INPUT_HERE)
        return request
    if base.exchange is None:
        return request
    kept = base.exchange.kept
    given = None if kept.command is not None or kept.resumes else repeated_input(base.exchange)
    return msgspec.structs.replace(request, input=given, command=kept.command)


def _may_wait(principal: Principal, thread_id: str | None, row: ThreadRow | None) -> bool:
    """Whether a message of the thread may wait for an answer. In a thread that is idle none does, and none begins to,
    for it would be open. A run without a thread of its own has a new one, or the principal's."""
    if row is None:
        return thread_id is not None and thread_id == principal.thread_id
    return row.status in ("busy", "interrupted")


def _answers(row: ThreadRow | None, request: NewRun) -> bool:
    """Whether it answers the question with which the thread waits. Without an input, it lets a graph go on that has
    stopped at a breakpoint."""
    if request.command is not None:
        return "resume" in request.command
    return request.input is None and row is not None and row.status == "interrupted"


async def _answer(services: LangGraphServices, principal: Principal, row: ThreadRow | None, request: NewRun) -> Found:
    """Raises Unprocessable, Conflict."""
    command = request.command or {}
    if request.input is not None or command.get("update") or command.get("goto"):
        raise Unprocessable(ANSWER_ALONE)
    if row is None or row.turn is None or row.status != "interrupted":
        raise Unprocessable(NOT_WAITING)
    placed = await services.store.exchange(principal, row.turn)
    asks, end = placed.exchange.message.asks, await services.events.log_end(principal, row.turn)
    if asks is None or end is None:
        raise Unprocessable(NOT_WAITING)
    given = NewInput(command.get("resume"), name=asks.name)
    validate_input(given, services.settings)
    await services.messages.input(principal, row.turn, given)
    return await find_run(services, principal, None, str(RunId(row.turn, end[0])))


async def _name_graph(services: LangGraphServices, principal: Principal, row: ThreadRow, agent: Agent) -> None:
    """Clients search for the threads of a graph by these names in the metadata."""
    if "graph_id" not in row.metadata:
        named = {"graph_id": agent.agent, "assistant_id": assistant_id(agent.agent)}
        await services.threads.change(principal, row.thread_id, row.metadata | named)


def _message(
    request: NewRun,
    agent: Agent,
    thread_id: str | None,
    row: ThreadRow | None,
    modes: list[str],
    base: Base | None,
) -> NewMessage:
    """Raises Unprocessable."""
    is_graph = "graph" in agent.settings
    check_config(request.config or {})
    kept = Kept(
        stream_mode=tuple(modes),
        stream_subgraphs=bool(request.stream_subgraphs),
        command=request.command,
        config=request.config,
        context=request.context,
        interrupt_before=request.interrupt_before,
        interrupt_after=request.interrupt_after,
        multitask_strategy=request.multitask_strategy or "enqueue",
        graph=is_graph,
        checkpoint=None if base is None else base.after,
        parent=None if base is None else base.named,
        resumes=is_graph and row is not None and request.input is None and request.command is None,
    )
    metadata = labels(request.metadata)
    message: Any = request.input
    if message is None and (kept.resumes or (is_graph and request.command is not None)):
        message = {}
    history: list[Any] = []
    if row is not None and not is_graph:
        history = copied_history(row)
    if not _takes_messages(agent) and _has_messages(message):
        told = read_told(message)
        kept = msgspec.structs.replace(kept, input=message)
        metadata |= {"system": told.system} if told.system else {}
        history = [*history, *told.history]
        message = told.message
    metadata |= {"history": history} if history else {}
    if request.command is not None:
        if not is_graph:
            raise Unprocessable(NO_GRAPH)
        check_command(request.command)
    if not isinstance(message, dict) and not (isinstance(message, str) and message):
        raise Unprocessable(NO_INPUT)
    on_busy: OnBusy = request.multitask_strategy or "enqueue"
    if request.after_seconds and on_busy != "enqueue":
        raise Unprocessable(LATER_RUN_DETAIL)
    return NewMessage(
        message,
        thread_id=thread_id,
        agent=agent.agent,
        metadata=metadata | {"langgraph": msgspec.to_builtins(kept)},
        delay_seconds=request.after_seconds or None,
        on_busy=on_busy if thread_id is not None else "enqueue",
        callback_url=request.webhook,
    )


def _has_messages(message: Any) -> bool:
    return isinstance(message, list) or (isinstance(message, dict) and "messages" in message)


def _takes_messages(agent: Agent) -> bool:
    """Whether the agent takes the messages themselves: a graph does, and one whose input has the field `messages`."""
    return "graph" in agent.settings or (agent.input is not None and _has_field(agent.input, "messages"))


def _has_field(schema: Any, name: str) -> bool:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        return (isinstance(properties, dict) and name in properties) or any(
            _has_field(part, name) for part in schema.values()
        )
    return isinstance(schema, list) and any(_has_field(part, name) for part in schema)


async def _submit(
    services: LangGraphServices,
    principal: Principal,
    request_hash: bytes,
    message: NewMessage,
    key: str | None,
    *,
    ends_question: bool,
) -> RunId:
    """A new run takes the place of one that waits for an answer (`ends_question`)."""
    if key is None:
        return RunId((await services.messages.submit(principal, message, ends_question=ends_question)).message_id)
    [accepted] = await services.messages.submit_once(
        principal, parse_key(key), request_hash, [message], ends_question=ends_question
    )
    return RunId(accepted.message_id)
