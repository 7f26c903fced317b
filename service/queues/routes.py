"""/queue, /queues, /agents, /workers: who works on what, and how fast."""

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.limits import PAGE_ITEMS
from service.params import PageLimit
from service.queues.model import Agent, DeadLetters, Overview, Queue, Worker
from service.queues.store import QueueStore


@get("/queue", summary="All queues at a glance")
async def overview(queues: NamedDependency[QueueStore]) -> Overview:
    return await queues.overview()


@get("/queues", summary="Every queue with its figures")
async def list_queues(queues: NamedDependency[QueueStore]) -> list[Queue]:
    return await queues.all()


@get("/queues/{name:str}", summary="One queue with its figures")
async def get_queue(name: FromPath[str], queues: NamedDependency[QueueStore]) -> Queue:
    return await queues.get(name)


@post("/queues/{name:str}/pause", status_code=200, summary="Stop claims from a queue; submits go on")
async def pause(name: FromPath[str], queues: NamedDependency[QueueStore]) -> Queue:
    return await queues.pause(name, True)


@post("/queues/{name:str}/resume", status_code=200, summary="Let claims from a queue go on")
async def resume(name: FromPath[str], queues: NamedDependency[QueueStore]) -> Queue:
    return await queues.pause(name, False)


@get("/queues/{name:str}/dead-letters", summary="What failed for good, the newest first")
async def dead_letters(
    name: FromPath[str], queues: NamedDependency[QueueStore], limit: PageLimit = PAGE_ITEMS
) -> DeadLetters:
    await queues.get(name)
    return DeadLetters(name, await queues.dead_letters(name, limit))


@get("/agents", summary="The registered agents")
async def list_agents(queues: NamedDependency[QueueStore]) -> list[Agent]:
    return await queues.agents()


@delete("/instances/{agent:str}/{thread_id:str}", status_code=202, summary="Drop what an agent keeps warm for a thread")
async def drop_instance(agent: FromPath[str], thread_id: FromPath[str], queues: NamedDependency[QueueStore]) -> None:
    """Every worker is told; the next message of the thread begins with a new instance."""
    await queues.drop_instance(agent, thread_id)


@get("/workers", summary="The workers that are alive")
async def list_workers(queues: NamedDependency[QueueStore]) -> list[Worker]:
    return await queues.workers()
