"""/agui: runs of agents for the clients of AG-UI, and what front ends of CopilotKit ask their runtime."""

import functools
from importlib.metadata import version
from typing import Any, TypeAlias

import litestar
import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from service.access.authenticator import require
from service.access.principal import Principal
from service.messages.model import decoded
from service.params import parse_thread_id
from service.protocols.agui.begin import AnswersMissing, begin
from service.protocols.agui.history import conversation, last_answer
from service.protocols.agui.ids import Run
from service.protocols.agui.inputs import asked_of, state_of, without_nulls
from service.protocols.agui.model import AgentInfo, RunInput, RuntimeInfo, Stopped
from service.protocols.agui.services import AguiServices
from service.protocols.agui.streams import RunReader, error_stream, nothing_open
from service.sse_frames import MEDIA_TYPE
from service.streams import sse

Caller: TypeAlias = NamedDependency[Principal]
Services: TypeAlias = NamedDependency[AguiServices]

post = functools.partial(litestar.post, status_code=200)


@get(["/", "/info"], scope="read")
async def list_agents(principal: Caller, agui: Services) -> RuntimeInfo:
    agents = await agui.queues.agents(principal)
    infos = {agent.agent: AgentInfo(agent.agent, agent.description) for agent in agents}
    return RuntimeInfo(version("treadle"), infos)


@post(["/{agent:str}", "/agent/{agent:str}/run"], scope="submit", stays_open=True, media_type=MEDIA_TYPE)
async def run_agent(agent: FromPath[str], data: JSONBody[RunInput], principal: Caller, agui: Services) -> Stream:
    require(principal, "read")
    try:
        run = await begin(agui, principal, agent, data)
    except AnswersMissing as error:
        return sse(error_stream(error))
    sent = data.state if isinstance(data.state, dict) else {}
    state = await _begun_with(agui, principal, run) if sent or run.after else None
    told = None if state is None else sent or None  # else the state is the client's own, and stays as it is
    before = without_nulls(data.messages)
    reader = RunReader(agui, principal, run, asked_of(data), before, state=state or {}, told=told)
    return sse(reader.events())


@post("/agent/{agent:str}/connect", scope="read", stays_open=True, media_type=MEDIA_TYPE)
async def connect(agent: FromPath[str], data: JSONBody[RunInput], principal: Caller, agui: Services) -> Stream:
    """The conversation so far, and the rest of the run that is under way, whichever agent it is of."""
    before, running = await conversation(agui, principal, data.thread_id)
    asked = asked_of(data)
    if running is None:
        return sse(nothing_open(agui, principal, asked, before))
    answered = await last_answer(agui, running.message_id)
    run = Run(running.message_id)
    state = await _begun_with(agui, principal, run)
    reader = RunReader(agui, principal, run, asked, before, answered=answered, state=state or {})
    return sse(reader.events(with_history=True))


@post("/agent/{agent:str}/stop/{thread_id:str}", scope="submit")
async def stop(agent: FromPath[str], thread_id: FromPath[str], principal: Caller, agui: Services) -> Stopped:
    """Cancel the message that has the turn of the thread."""
    holder = await agui.threads.turn_holder(principal, parse_thread_id(thread_id))
    if holder is not None and await agui.messages.cancel_unless_over(principal, holder.message_id):
        return Stopped(True)
    return Stopped(False, f"No run of the thread {thread_id!r} is open.")


router = Router("/agui", route_handlers=[list_agents, run_agent, connect, stop], include_in_schema=False)


async def _begun_with(agui: AguiServices, principal: Principal, run: Run) -> dict[str, Any] | None:
    """The state with which the run of a message began, as far as its agent takes it from clients; None: it takes none,
    as agents of remote workers."""
    message = decoded(await agui.messages.status(principal, run.message_id))
    settings: Any = {}
    for agent in await agui.queues.agents(principal):
        if agent.agent == message.agent:
            settings = agent.settings
    return state_of(message.metadata, msgspec.json.decode(settings) if isinstance(settings, msgspec.Raw) else settings)
