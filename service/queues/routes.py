"""/queue, /queues, /agents, /workers, /instances: what operators read and switch."""

from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.limits import PAGE_ITEMS
from service.params import PageLimit
from service.queues.model import Agent, DeadLetters, Overview, Queue, Worker
from service.queues.store import QueueStore


@get("/queue", summary="Get an overview of all queues together")
async def get_overview(queues: NamedDependency[QueueStore]) -> Overview:
    return await queues.overview()


@get("/queues", summary="List the queues with their figures")
async def list_queues(queues: NamedDependency[QueueStore]) -> list[Queue]:
    return await queues.all()


@get("/queues/{name:str}", summary="Get a queue with its figures")
async def get_queue(name: FromPath[str], queues: NamedDependency[QueueStore]) -> Queue:
    return await queues.get(name)


@post("/queues/{name:str}/pause", status_code=200, summary="Pause a queue: workers stop claiming, clients may submit")
async def pause(name: FromPath[str], queues: NamedDependency[QueueStore]) -> Queue:
    return await queues.pause(name, True)


@post("/queues/{name:str}/resume", status_code=200, summary="Resume a paused queue")
async def resume(name: FromPath[str], queues: NamedDependency[QueueStore]) -> Queue:
    return await queues.pause(name, False)


@get("/queues/{name:str}/dead-letters", summary="List the dead letters of a queue, the newest first")
async def list_dead_letters(
    name: FromPath[str], queues: NamedDependency[QueueStore], limit: PageLimit = PAGE_ITEMS
) -> DeadLetters:
    await queues.get(name)
    return DeadLetters(name, await queues.dead_letters(name, limit))


@get("/agents", summary="List the registered agents")
async def list_agents(queues: NamedDependency[QueueStore]) -> list[Agent]:
    return await queues.agents()


@delete(
    "/instances/{agent:str}/{thread_id:str}",
    status_code=202,
    summary="Drop the instance that workers keep of an agent for a thread",
    description="Every worker is told. The next message of the thread starts with a new instance.",
)
async def drop_instance(agent: FromPath[str], thread_id: FromPath[str], queues: NamedDependency[QueueStore]) -> None:
    await queues.drop_instance(agent, thread_id)


@get("/workers", summary="List the workers that are alive")
async def list_workers(queues: NamedDependency[QueueStore]) -> list[Worker]:
    return await queues.workers()


router = Router(
    "/",
    route_handlers=[
        *(get_overview, list_queues, get_queue, pause, resume, list_dead_letters),
        *(list_agents, drop_instance, list_workers),
    ],
    tags=["Queues"],
)
