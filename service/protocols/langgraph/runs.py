"""Runs: create, watch, wait for, list, cancel and delete them; in a thread, or without one."""

from litestar import Response
from litestar.params import FromPath, JSONBody

from service.access.authenticator import require
from service.access.principal import Principal
from service.errors import Busy, Conflict, NotFound, Unprocessable
from service.limits import JSON_PAGE_BYTES, MAX_BATCH_MESSAGES
from service.params import IdempotencyKey, parse_event_id
from service.protocols.langgraph.answers import run
from service.protocols.langgraph.begin import Begun, begin_run, read_modes
from service.protocols.langgraph.calls import (
    Answer,
    Asked,
    Caller,
    Services,
    delete,
    flag,
    get,
    number,
    page,
    place_of,
    post,
    refuse_link,
    run_stream,
    run_values,
)
from service.protocols.langgraph.find import Found, find_run, found_run
from service.protocols.langgraph.model import Json, NewRun, RunsToCancel
from service.protocols.langgraph.services import LangGraphServices
from service.protocols.langgraph.streams import RunReader

FROM_START = "-1"  # as Last-Event-ID
MAX_EVENT_ID = 2**31 * 100
CANCEL_SECONDS = 30.0  # that a cancel with wait=1 waits for the end


@post("/threads/{thread_id:str}/runs", scope="submit")
async def create_run(
    thread_id: FromPath[str],
    data: JSONBody[NewRun],
    principal: Caller,
    langgraph: Services,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    return _created(await begin_run(langgraph, principal, thread_id, data, idempotency_key))


@post("/runs", scope="submit")
async def create_run_alone(
    data: JSONBody[NewRun], principal: Caller, langgraph: Services, idempotency_key: IdempotencyKey = None
) -> Answer:
    return _created(await begin_run(langgraph, principal, None, data, idempotency_key))


@post("/runs/batch", scope="submit")
async def create_runs(data: JSONBody[list[NewRun]], principal: Caller, langgraph: Services) -> list[Json]:
    """One after the other; the first that is refused ends it."""
    if not 1 <= len(data) <= MAX_BATCH_MESSAGES:
        raise Unprocessable(f"The body must be a list of 1 to {MAX_BATCH_MESSAGES} runs.")
    return [run((await begin_run(langgraph, principal, None, one, None)).found) for one in data]


@post("/threads/{thread_id:str}/runs/stream", scope="submit", stays_open=True)
async def stream_run(
    thread_id: FromPath[str],
    data: JSONBody[NewRun],
    principal: Caller,
    langgraph: Services,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    return await _streamed(langgraph, principal, thread_id, data, idempotency_key)


@post("/runs/stream", scope="submit", stays_open=True)
async def stream_run_alone(
    data: JSONBody[NewRun], principal: Caller, langgraph: Services, idempotency_key: IdempotencyKey = None
) -> Answer:
    return await _streamed(langgraph, principal, None, data, idempotency_key)


@post("/threads/{thread_id:str}/runs/wait", scope="submit", stays_open=True)
async def wait_for_run(
    thread_id: FromPath[str],
    data: JSONBody[NewRun],
    principal: Caller,
    langgraph: Services,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    return await _awaited(langgraph, principal, thread_id, data, idempotency_key)


@post("/runs/wait", scope="submit", stays_open=True)
async def wait_for_run_alone(
    data: JSONBody[NewRun], principal: Caller, langgraph: Services, idempotency_key: IdempotencyKey = None
) -> Answer:
    return await _awaited(langgraph, principal, None, data, idempotency_key)


@get("/threads/{thread_id:str}/runs", scope="read")
async def list_runs(request: Asked, thread_id: FromPath[str], principal: Caller, langgraph: Services) -> list[Json]:
    """The newest first."""
    limit = number(request, "limit", 10, least=1)
    offset = number(request, "offset", 0, least=0, most=1_000_000)
    status = request.query_params.get("status")
    row = await langgraph.store.thread(principal, thread_id)
    runs = await langgraph.store.runs(row.thread, limit, offset, status or None, JSON_PAGE_BYTES)
    found = [run(found_run(placed, after, status)) for placed, after, status in runs]
    return page(found, request.query_params.getall("select", None))


@get("/threads/{thread_id:str}/runs/{run_id:str}", scope="read")
async def get_run(thread_id: FromPath[str], run_id: FromPath[str], principal: Caller, langgraph: Services) -> Json:
    return run(await find_run(langgraph, principal, thread_id, run_id))


@delete("/threads/{thread_id:str}/runs/{run_id:str}", scope="operate")
async def delete_run(thread_id: FromPath[str], run_id: FromPath[str], principal: Caller, langgraph: Services) -> None:
    """A run that is over; what it has added to the thread stays."""
    found = await find_run(langgraph, principal, thread_id, run_id)
    await langgraph.messages.mark(principal, found.run_id.message_id, {"langgraph_deleted": True})


@get("/threads/{thread_id:str}/runs/{run_id:str}/join", scope="read", stays_open=True)
async def join_run(
    request: Asked, thread_id: FromPath[str], run_id: FromPath[str], principal: Caller, langgraph: Services
) -> Answer:
    found = await find_run(langgraph, principal, thread_id, run_id)
    reader = RunReader(langgraph, principal, found, cancels=_cancels(request, principal))
    return run_values(reader.body(), found)


@get("/threads/{thread_id:str}/runs/{run_id:str}/stream", scope="read", stays_open=True)
async def join_stream(
    request: Asked, thread_id: FromPath[str], run_id: FromPath[str], principal: Caller, langgraph: Services
) -> Answer:
    return await _joined(request, langgraph, principal, thread_id, run_id)


@get("/runs/{run_id:str}/stream", scope="read", stays_open=True)
async def join_stream_alone(request: Asked, run_id: FromPath[str], principal: Caller, langgraph: Services) -> Answer:
    return await _joined(request, langgraph, principal, None, run_id)


@post("/threads/{thread_id:str}/runs/{run_id:str}/cancel", scope="submit", stays_open=True)
async def cancel_run(
    request: Asked, thread_id: FromPath[str], run_id: FromPath[str], principal: Caller, langgraph: Services
) -> Answer:
    action = _action(request)
    found = await find_run(langgraph, principal, thread_id, run_id)
    try:
        if not found.is_open:
            raise Conflict(found.status)
        await _cancel(langgraph, principal, found, action)
    except Busy:
        raise
    except Conflict:
        raise NotFound(f"The run {str(found.run_id)!r} is over.") from None
    if not flag(request, "wait"):
        return Response(None, status_code=202)
    require(principal, "read")
    return Response(await RunReader(langgraph, principal, found).settled(CANCEL_SECONDS))


@post("/runs/cancel", scope="submit", status_code=204)
async def cancel_runs(request: Asked, data: JSONBody[RunsToCancel], principal: Caller, langgraph: Services) -> None:
    action = _action(request)
    if data.thread_id is None or not data.run_ids:
        raise Unprocessable("Name the runs: thread_id and run_ids.")
    if len(data.run_ids) > MAX_BATCH_MESSAGES:
        raise Unprocessable(f"run_ids must be a list of at most {MAX_BATCH_MESSAGES} ids.")
    runs = [await find_run(langgraph, principal, data.thread_id, run_id) for run_id in data.run_ids]
    for found in runs:
        if not found.is_open:
            continue
        try:
            await _cancel(langgraph, principal, found, action)
        except Busy:
            raise
        except Conflict:
            pass  # it is over


HANDLERS = [
    *(create_run, create_run_alone, create_runs, stream_run, stream_run_alone, wait_for_run, wait_for_run_alone),
    *(list_runs, get_run, delete_run, join_run, join_stream, join_stream_alone, cancel_run, cancel_runs),
]


def _action(request: Asked) -> str:
    """Raises Unprocessable."""
    action = request.query_params.get("action") or "interrupt"
    if action not in ("interrupt", "rollback"):
        raise Unprocessable("action must be interrupt or rollback.")
    return action


def _created(begun: Begun) -> Answer:
    return Response(run(begun.found), headers={"Content-Location": place_of(begun.found)})


async def _streamed(
    langgraph: LangGraphServices, principal: Principal, thread_id: str | None, data: NewRun, key: str | None
) -> Answer:
    require(principal, "read")
    begun = await begin_run(langgraph, principal, thread_id, data, key)
    reader = RunReader(langgraph, principal, begun.found, cancels=data.on_disconnect == "cancel")
    return run_stream(reader.events(-1, begun.modes), begun.found)


async def _awaited(
    langgraph: LangGraphServices, principal: Principal, thread_id: str | None, data: NewRun, key: str | None
) -> Answer:
    require(principal, "read")
    begun = await begin_run(langgraph, principal, thread_id, data, key)
    reader = RunReader(langgraph, principal, begun.found, cancels=data.on_disconnect == "cancel")
    return run_values(reader.body(), begun.found)


async def _joined(
    request: Asked, langgraph: LangGraphServices, principal: Principal, thread_id: str | None, run_id: str
) -> Answer:
    found = await find_run(langgraph, principal, thread_id, run_id)
    asked = [mode for mode in request.query_params.getall("stream_mode", []) if mode]
    modes = read_modes(asked) if asked else found.placed.exchange.kept.stream_mode
    given = request.headers.get("last-event-id")
    after = -1 if given in (None, "", FROM_START) else parse_event_id(given, "Last-Event-ID", MAX_EVENT_ID)
    reader = RunReader(langgraph, principal, found, cancels=_cancels(request, principal))
    return run_stream(reader.events(after, modes), found)


def _cancels(request: Asked, principal: Principal) -> bool:
    """Raises Forbidden, ForeignPage."""
    wanted = flag(request, "cancel_on_disconnect")
    if wanted:
        refuse_link(request)
        require(principal, "submit")
    return wanted


async def _cancel(langgraph: LangGraphServices, principal: Principal, found: Found, action: str) -> None:
    """Raises Conflict, Busy."""
    if action == "rollback":
        await langgraph.messages.cancel(principal, found.run_id.message_id)
    else:
        await langgraph.store.interrupt(principal, found.run_id.message_id)
