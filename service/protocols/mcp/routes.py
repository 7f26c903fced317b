"""/mcp: the Model Context Protocol over streamable HTTP."""

from importlib.metadata import version
from typing import Any
from uuid import uuid4

from litestar import Request, Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.exceptions import MethodNotAllowedException
from litestar.params import JSONBody

from service.access.principal import Principal
from service.errors import Busy, LimitReached, QueueFull, Refused, Unavailable
from service.limits import REQUEST_ID_RULE, is_request_id
from service.protocols.mcp import calls, resources
from service.protocols.mcp.model import INVALID_REQUEST, METHOD_NOT_FOUND, Answer, Call, CallRefused
from service.protocols.mcp.services import McpServices
from service.protocols.mcp.translate import parse_event_id, tool_of
from service.sse_frames import MEDIA_TYPE
from service.streams import sse

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
SESSION = "Mcp-Session-Id"
INSTRUCTIONS = (
    "Each tool is an agent. A call can take long: it goes on when the connection breaks, and a client that comes back"
    " receives the rest. Calls with the same thread_id are one conversation."
)


@post("/", scope="read", stays_open=True, status_code=200)
async def call_method(
    request: Request[Any, Any, Any],
    data: JSONBody[Call],
    principal: NamedDependency[Principal],
    mcp: NamedDependency[McpServices],
) -> Response[Any]:
    session = request.headers.get(SESSION)
    if data.id is None or data.method is None:
        if data.method == "notifications/cancelled":
            await calls.cancel(mcp, principal, data.params or {}, session)
        return Response(None, status_code=202)
    try:
        if not is_request_id(data.id):
            raise CallRefused(INVALID_REQUEST, f"id must be {REQUEST_ID_RULE}.")
        if data.method == "initialize":
            return Response(Answer(data.id, result=_initialize(data.params or {})), headers={SESSION: uuid4().hex})
        if data.method != "tools/call":
            return Response(Answer(data.id, result=await _result(mcp, principal, data.method, data.params or {})))
        event_id = await calls.begin(mcp, principal, data, session)
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return sse(calls.events(mcp, principal, event_id))
        return Response(await calls.wait(mcp, principal, event_id))
    except (Busy, QueueFull, LimitReached, Unavailable):
        raise  # with the status and headers that say when to try again
    except (Refused, CallRefused) as error:
        return Response(calls.refused(data.id, error))


@get("/", scope="read", stays_open=True, media_type=MEDIA_TYPE)
async def resume(
    request: Request[Any, Any, Any], principal: NamedDependency[Principal], mcp: NamedDependency[McpServices]
) -> Response[Any]:
    """The rest of a stream that was cut. There is no other stream: this server asks its clients nothing."""
    seen = request.headers.get("last-event-id")
    if seen is None:
        raise MethodNotAllowedException(headers={"allow": "DELETE, POST"})
    event_id = parse_event_id(seen)
    await mcp.messages.status(principal, event_id.message_id)
    return sse(calls.events(mcp, principal, event_id))


@delete("/", scope="read", status_code=204)
async def end_session() -> None:
    """A session has no state; its calls go on."""


router = Router("/mcp", route_handlers=[call_method, resume, end_session], include_in_schema=False)


async def _result(mcp: McpServices, principal: Principal, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Raises CallRefused, Refused."""
    match method:
        case "ping":
            return {}
        case "tools/list":
            return {"tools": [tool_of(agent) for agent in await mcp.queues.agents(principal)]}
        case "resources/list":
            return await resources.list_resources(mcp, principal, params)
        case "resources/templates/list":
            return {"resourceTemplates": resources.TEMPLATES}
        case "resources/read":
            return await resources.read_resource(mcp, principal, params)
    raise CallRefused(METHOD_NOT_FOUND, f"There is no method {method[:100]!r}.")


def _initialize(params: dict[str, Any]) -> dict[str, Any]:
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}, "resources": {}},
        "serverInfo": {"name": "treadle", "version": version("treadle")},
        "instructions": INSTRUCTIONS,
    }
