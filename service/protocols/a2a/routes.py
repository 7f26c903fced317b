"""/a2a: agents for the clients of A2A, in both bindings; and the cards."""

import functools
from typing import Any, TypeAlias

import litestar
import msgspec
from litestar import Request, Response, Router
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.access.principal import ANY_SCOPE, OPEN_SCOPE, Principal
from service.json_input import decode
from service.protocols.a2a import calls, cards, lists, push
from service.protocols.a2a.errors import HANDLERS, InvalidParams, MethodNotFound
from service.protocols.a2a.jsonrpc import answer_call
from service.protocols.a2a.model import (
    ConfigParams,
    ConfigsParams,
    Json,
    ListParams,
    PushConfig,
    SendParams,
    TaskParams,
)
from service.protocols.a2a.services import A2AServices, Caller
from service.protocols.a2a.streams import Binding, body, events
from service.protocols.a2a.wire import check_version
from service.streams import json_stream, sse

Asked: TypeAlias = Request[Any, Any, Any]
Who: TypeAlias = NamedDependency[Principal]
Services: TypeAlias = NamedDependency[A2AServices]
Answer: TypeAlias = Response[Any]

CARD = "/.well-known/agent-card.json"

get = litestar.get
post = functools.partial(litestar.post, status_code=200)
delete = functools.partial(litestar.delete, status_code=200)


def of_each(path: str) -> list[str]:
    """The path for all agents, and for one."""
    return [path, f"/{{agent:str}}{path.rstrip('/')}"]


@get([CARD, f"/a2a{CARD}"], scope=OPEN_SCOPE)
async def get_card(request: Asked, a2a: Services) -> Answer:
    return cards.answer(request, await cards.public_card(a2a, request))


@get(f"/{{agent:str}}{CARD}", scope="read")
async def get_card_of_agent(request: Asked, agent: FromPath[str], principal: Who, a2a: Services) -> Answer:
    return cards.answer(request, await cards.card_for(a2a, request, Caller(principal, agent)))


@get(of_each("/extendedAgentCard"), scope=ANY_SCOPE)
async def get_extended_card(request: Asked, principal: Who, a2a: Services) -> Json:
    return await cards.extended_card(a2a, request, _caller(request, principal))


@post(of_each("/"), scope=ANY_SCOPE, stays_open=True)
async def call_method(request: Asked, principal: Who, a2a: Services) -> Answer:
    """JSON-RPC. Each method has its scope."""
    agent = request.path_params.get("agent")
    return await answer_call(request, a2a, Caller(principal, agent))


@post(of_each("/message:send"), scope="submit", stays_open=True)
async def send_message(request: Asked, principal: Who, a2a: Services) -> Answer:
    caller = _caller(request, principal)
    params: SendParams = decode(await request.body(), SendParams, "body")
    begun = await calls.send(a2a, caller, params)
    if params.settings.return_immediately:
        return Response({"task": await calls.snapshot(a2a, begun)})
    return json_stream(body(a2a, caller, begun, Binding()))


@post(of_each("/message:stream"), scope="submit", stays_open=True)
async def stream_message(request: Asked, principal: Who, a2a: Services) -> Answer:
    caller = _caller(request, principal)
    begun = await calls.send(a2a, caller, decode(await request.body(), SendParams, "body"))
    return sse(events(a2a, caller, begun, Binding()))


@get(of_each("/tasks"), scope="read")
async def list_tasks(request: Asked, principal: Who, a2a: Services) -> Json:
    return await lists.list_tasks(a2a, _caller(request, principal), _from_query(request, ListParams))


@get(of_each("/tasks/{task:str}"), scope="read", stays_open=True)
async def get_task(request: Asked, task: FromPath[str], principal: Who, a2a: Services) -> Answer:
    """`:subscribe` follows it."""
    caller = _caller(request, principal)
    task_id, _, verb = task.partition(":")
    if verb == "subscribe":
        return await _subscribe(a2a, caller, task_id)
    params = _from_query(request, TaskParams, id=task)
    return Response(await calls.get(a2a, caller, params))


@post(of_each("/tasks/{task:str}"), scope=ANY_SCOPE, stays_open=True)
async def act_on_task(request: Asked, task: FromPath[str], principal: Who, a2a: Services) -> Answer:
    """`:cancel` or `:subscribe`. Each has its scope; the body says nothing."""
    caller = _caller(request, principal)
    task_id, _, verb = task.rpartition(":")
    if verb == "subscribe":
        return await _subscribe(a2a, caller, task_id)
    if verb == "cancel":
        return Response(await calls.cancel(a2a, caller, TaskParams(task_id)))
    raise MethodNotFound("Send a POST to the id of the task and :cancel or :subscribe.")


@get(of_each("/tasks/{task:str}/pushNotificationConfigs"), scope="submit")
async def list_configs(request: Asked, task: FromPath[str], principal: Who, a2a: Services) -> Json:
    return await push.list_configs(a2a, _caller(request, principal), ConfigsParams(task))


@post(of_each("/tasks/{task:str}/pushNotificationConfigs"), scope="submit")
async def create_config(request: Asked, task: FromPath[str], principal: Who, a2a: Services) -> Json:
    caller = _caller(request, principal)
    config: PushConfig = decode(await request.body(), PushConfig, "body")
    return await push.create(a2a, caller, msgspec.structs.replace(config, task_id=task))


@get(of_each("/tasks/{task:str}/pushNotificationConfigs/{config:str}"), scope="submit")
async def get_config(request: Asked, task: FromPath[str], config: FromPath[str], principal: Who, a2a: Services) -> Json:
    return await push.get(a2a, _caller(request, principal), ConfigParams(task, config))


@delete(of_each("/tasks/{task:str}/pushNotificationConfigs/{config:str}"), scope="submit")
async def delete_config(
    request: Asked, task: FromPath[str], config: FromPath[str], principal: Who, a2a: Services
) -> Json:
    return await push.delete(a2a, _caller(request, principal), ConfigParams(task, config))


router = Router(
    "/a2a",
    route_handlers=[
        *(call_method, send_message, stream_message, list_tasks, get_task, act_on_task, get_extended_card),
        *(get_card_of_agent, list_configs, create_config, get_config, delete_config),
    ],
    exception_handlers=HANDLERS,
    include_in_schema=False,
)
well_known = Router("/", route_handlers=[get_card], exception_handlers=HANDLERS, include_in_schema=False)


def _caller(request: Asked, principal: Principal) -> Caller:
    """Of a request of REST. Raises VersionNotSupported."""
    check_version(request)
    return Caller(principal, request.path_params.get("agent"))


async def _subscribe(a2a: A2AServices, caller: Caller, task_id: str) -> Answer:
    return sse(events(a2a, caller, await calls.subscribe(a2a, caller, TaskParams(task_id)), Binding()))


def _from_query(request: Asked, kind: Any, **fields: str) -> Any:
    """The parameters of a query. Raises InvalidParams."""
    given = {name: value for name, value in request.query_params.items() if value != ""} | fields
    for name in ("includeArtifacts",):
        if name in given:
            given[name] = given[name].lower()
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"A query parameter cannot be read: {str(error)[:200]}.") from None
