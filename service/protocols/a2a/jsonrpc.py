"""One call of JSON-RPC."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response

from service.errors import Invalid, Refused, Unavailable, Unprocessable
from service.json_input import convert, decode
from service.protocols.a2a import calls, cards, lists, push
from service.protocols.a2a.errors import (
    KEPT,
    A2AError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    ParseError,
    as_a2a,
    rpc_error,
)
from service.protocols.a2a.model import (
    Answer,
    Call,
    ConfigParams,
    ConfigsParams,
    Json,
    ListParams,
    PushConfig,
    SendParams,
    TaskParams,
)
from service.protocols.a2a.services import A2AServices, Caller
from service.protocols.a2a.streams import RpcBinding, body, events
from service.protocols.a2a.wire import check_version
from service.streams import json_stream, sse

PUSH_METHODS: dict[str, tuple[Any, Callable[[A2AServices, Caller, Any], Awaitable[Json]]]] = {
    "CreateTaskPushNotificationConfig": (PushConfig, push.create),
    "GetTaskPushNotificationConfig": (ConfigParams, push.get),
    "ListTaskPushNotificationConfigs": (ConfigsParams, push.list_configs),
    "DeleteTaskPushNotificationConfig": (ConfigParams, push.delete),
}


async def answer_call(request: Request[Any, Any, Any], services: A2AServices, caller: Caller) -> Response[Any]:
    """Errors of JSON-RPC have the status 200; those of access, and those that say when to try again, have their own.
    Raises KEPT, Unavailable."""
    call = None
    try:
        call = _read(await request.body())
        check_version(request)
        return await _answer(request, services, caller, call)
    except (*KEPT, Unavailable):
        raise
    except (Refused, A2AError) as error:
        return Response(Answer(None if call is None else call.id, error=rpc_error(as_a2a(error))))


def _read(text: bytes) -> Call:
    """Raises ParseError, InvalidRequest."""
    try:
        call: Call = decode(text, Call, "request")
        return call
    except Invalid as error:
        raise ParseError(str(error)) from None
    except Unprocessable as error:
        raise InvalidRequest(str(error)) from None


async def _answer(request: Request[Any, Any, Any], services: A2AServices, caller: Caller, call: Call) -> Response[Any]:
    """Raises A2AError, Refused, Unavailable."""
    binding = RpcBinding(call.id)

    def params(kind: Any) -> Any:
        given = {} if call.params is None else call.params
        if not isinstance(given, dict):
            raise InvalidParams("params must be an object.")
        return convert(given, kind, "params")

    match call.method:
        case "SendMessage":
            asked = params(SendParams)
            begun = await calls.send(services, caller, asked)
            if not asked.settings.return_immediately:
                return json_stream(body(services, caller, begun, binding))
            result = {"task": await calls.snapshot(services, begun)}
        case "SendStreamingMessage":
            begun = await calls.send(services, caller, params(SendParams))
            return sse(events(services, caller, begun, binding))
        case "SubscribeToTask":
            begun = await calls.subscribe(services, caller, params(TaskParams))
            return sse(events(services, caller, begun, binding))
        case "GetTask":
            result = await calls.get(services, caller, params(TaskParams))
        case "ListTasks":
            result = await lists.list_tasks(services, caller, params(ListParams))
        case "CancelTask":
            result = await calls.cancel(services, caller, params(TaskParams))
        case "GetExtendedAgentCard":
            result = await cards.extended_card(services, request, caller)
        case method if method in PUSH_METHODS:
            kind, act = PUSH_METHODS[method]
            result = await act(services, caller, params(kind))
        case _:
            raise MethodNotFound(f"There is no method {call.method[:100]!r}.")
    return Response(Answer(call.id, result=result))
