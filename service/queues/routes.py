"""/queue, /queues, /agents, /workers, /instances: what operators read and switch.

`list_workers` is served by the router of protocols/leases: OpenAPI shows it there beside the other routes of /workers.
"""

from typing import Annotated

from litestar import Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from service.access.principal import Principal
from service.cursors import (
    NamedPosition,
    format_name,
    format_position,
    parse_cursor,
    parse_name,
    parse_named_position,
)
from service.errors import NotFound
from service.limits import PAGE_ITEMS
from service.params import NEXT_PAGE, PageLimit, next_page, parse_thread_id
from service.queues.model import Agent, DeadLetters, DroppedInstance, Instance, Overview, Queue, Worker
from service.queues.store import QueueStore
from service.refusals import refusals


@get(
    "/queue",
    operation_id="getOverview",
    scope="operate",
    unrestricted=True,
    summary="Get an overview of all queues together",
)
async def get_overview(principal: NamedDependency[Principal], queues: NamedDependency[QueueStore]) -> Overview:
    return await queues.overview(principal)


@get(
    "/queues",
    operation_id="listQueues",
    scope="operate",
    unrestricted=True,
    summary="List the queues with their figures, by name",
    response_headers=[NEXT_PAGE],
)
async def list_queues(
    principal: NamedDependency[Principal],
    queues: NamedDependency[QueueStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Queue]]:
    page, following = await queues.page(principal, None if cursor is None else parse_name(cursor), limit)
    return Response(page, headers=next_page("/queues", limit=limit, cursor=following and format_name(following)))


@get(
    "/queues/{name:str}",
    operation_id="getQueue",
    scope="operate",
    unrestricted=True,
    summary="Get a queue with its figures",
    responses=refusals(NotFound),
)
async def get_queue(
    name: FromPath[str], principal: NamedDependency[Principal], queues: NamedDependency[QueueStore]
) -> Queue:
    return await queues.get(principal, name)


@post(
    "/queues/{name:str}/pause",
    operation_id="pauseQueue",
    scope="operate",
    operators_only=True,
    status_code=200,
    summary="Pause a queue: workers stop claiming, clients may submit",
    responses=refusals(NotFound),
)
async def pause(
    name: FromPath[str], principal: NamedDependency[Principal], queues: NamedDependency[QueueStore]
) -> Queue:
    return await queues.pause(principal, name, True)


@post(
    "/queues/{name:str}/resume",
    operation_id="resumeQueue",
    scope="operate",
    operators_only=True,
    status_code=200,
    summary="Resume a paused queue",
    responses=refusals(NotFound),
)
async def resume(
    name: FromPath[str], principal: NamedDependency[Principal], queues: NamedDependency[QueueStore]
) -> Queue:
    return await queues.pause(principal, name, False)


@get(
    "/queues/{name:str}/dead-letters",
    operation_id="listDeadLetters",
    scope="operate",
    summary="List the dead letters of a queue, the newest first",
    responses=refusals(NotFound),
)
async def list_dead_letters(
    name: FromPath[str],
    principal: NamedDependency[Principal],
    queues: NamedDependency[QueueStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> DeadLetters:
    before = None if cursor is None else parse_cursor(cursor)
    await queues.get(principal, name)
    page, last = await queues.dead_letter_page(principal, name, limit, before)
    return DeadLetters(name, page, None if last is None else str(last))


@get(
    "/agents",
    operation_id="listAgents",
    scope="read",
    summary="List the registered agents, by name",
    response_headers=[NEXT_PAGE],
)
async def list_agents(
    principal: NamedDependency[Principal],
    queues: NamedDependency[QueueStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Agent]]:
    page, following = await queues.agent_page(principal, None if cursor is None else parse_name(cursor), limit)
    return Response(page, headers=next_page("/agents", limit=limit, cursor=following and format_name(following)))


@get(
    "/instances",
    operation_id="listInstances",
    scope="operate",
    summary="List the warm instances that workers keep, the newest first",
    description="By the workers' last reports: each names up to 1,000, at most some seconds after a change.",
    response_headers=[NEXT_PAGE],
)
async def list_instances(
    principal: NamedDependency[Principal],
    queues: NamedDependency[QueueStore],
    agent: Annotated[str | None, QueryParameter(min_length=1, max_length=100)] = None,
    thread_id: FromQuery[str | None] = None,
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Instance]]:
    wanted = None if thread_id is None else parse_thread_id(thread_id)
    page, following = await queues.instance_page(
        principal, agent=agent, thread_id=wanted, limit=limit, after=_parse_place(cursor)
    )
    query = {"agent": agent, "thread_id": thread_id, "limit": limit}
    return Response(page, headers=next_page("/instances", **query, cursor=following and format_position(following)))


@delete(
    "/instances/{agent:str}/{thread_id:str}",
    operation_id="dropInstance",
    scope="operate",
    status_code=202,
    summary="Drop the instance that workers keep of an agent for a thread",
    description="Every worker is told. The next message of the thread starts with a new instance.",
    responses=refusals(NotFound),
)
async def drop_instance(
    agent: FromPath[str],
    thread_id: FromPath[str],
    principal: NamedDependency[Principal],
    queues: NamedDependency[QueueStore],
) -> DroppedInstance:
    await queues.drop_instance(principal, agent, parse_thread_id(thread_id))
    return DroppedInstance(agent, thread_id)


@get(
    "/workers",
    operation_id="listWorkers",
    scope="operate",
    operators_only=True,
    summary="List the workers that are alive, the oldest first",
    response_headers=[NEXT_PAGE],
)
async def list_workers(
    queues: NamedDependency[QueueStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Worker]]:
    page, following = await queues.worker_page(_parse_place(cursor), limit)
    return Response(page, headers=next_page("/workers", limit=limit, cursor=following and format_position(following)))


def _parse_place(cursor: str | None) -> NamedPosition | None:
    """Raises Invalid."""
    return None if cursor is None else parse_named_position(cursor)


router = Router(
    "/",
    route_handlers=[
        *(get_overview, list_queues, get_queue, pause, resume, list_dead_letters),
        *(list_agents, list_instances, drop_instance),
    ],
    tags=["Queues"],
)
