"""/workers: the life of a remote worker, and the life of an attempt: claim, append, finish. `calls` has the others."""

import contextlib
from uuid import uuid4

from litestar import Router, delete, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.access.principal import Principal
from service.config import Settings
from service.errors import Conflict, LeaseLost, NotFound, QueueFull, Unprocessable
from service.leases.overload import put_off
from service.protocols.leases.calls import place_published_record, place_sent_message, read_children, read_history
from service.protocols.leases.model import (
    AppendedEvents,
    ClaimedMessages,
    EndedAttempt,
    NewClaim,
    NewEnding,
    NewEvents,
    NewHeartbeat,
    NewWorker,
    RegisteredWorker,
    Verdicts,
)
from service.protocols.leases.sends import AT_ITS_END, EXACTLY_ONCE, Placed, place_all
from service.protocols.leases.services import RemoteServices, WorkerId
from service.protocols.leases.store import RemoteAppend, RemoteFinish
from service.protocols.leases.translate import (
    agent_row,
    claimed_message,
    events_to_append,
    json_or_none,
    outcome_of,
    require_each_once,
    step_that_sends,
)
from service.queues.routes import list_workers
from service.refusals import refusals


@post(
    "/workers",
    operation_id="registerWorker",
    scope="work",
    unrestricted=True,
    status_code=201,
    summary="Register a remote worker with its agents",
    description="It claims messages of the caller's tenant. New agents are registered by workers of `default` only.",
    responses=refusals(Conflict),
)
async def register_worker(
    data: JSONBody[NewWorker],
    principal: NamedDependency[Principal],
    settings: NamedDependency[Settings],
    remote: NamedDependency[RemoteServices],
) -> RegisteredWorker:
    require_each_once(data.agents)
    worker_id = f"remote:{uuid4()}"
    queues = await remote.store.register(
        tenant=principal.tenant,
        worker=worker_id,
        host=data.host,
        pid=data.pid,
        agents=[agent_row(agent, settings) for agent in data.agents],
        concurrency=data.concurrency,
        may_register=principal.is_operator,
    )
    return RegisteredWorker(worker_id, principal.tenant, queues, settings.heartbeat_interval, settings.worker_timeout)


@post(
    "/workers/{worker_id:str}/claim",
    operation_id="claimMessages",
    scope="work",
    stays_open=True,
    unrestricted=True,
    status_code=200,
    summary="Claim messages for a remote worker",
    description="With `wait`, the answer comes with the first message. Each message is under a lease of its own.",
    responses=refusals(NotFound),
)
async def claim_messages(
    worker_id: WorkerId,
    data: JSONBody[NewClaim],
    principal: NamedDependency[Principal],
    remote: NamedDependency[RemoteServices],
) -> ClaimedMessages:
    works = await remote.claims.claim(principal, worker_id, data.quantity, data.wait)
    for claim, _ in works:
        remote.writer.hint_started(claim)
    return ClaimedMessages([claimed_message(*work, remote.traces.begin(work.claim)) for work in works])


@post(
    "/workers/{worker_id:str}/append",
    operation_id="appendEvents",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Append events to a message under lease",
    description="A repeated call writes nothing twice. A step may have `sends` and `records`, which are committed with"
    " it. 409: the lease is lost, or earlier events are missing.",
    responses=refusals(NotFound, Conflict, QueueFull),
)
async def append_events(
    worker_id: WorkerId,
    data: JSONBody[NewEvents],
    principal: NamedDependency[Principal],
    settings: NamedDependency[Settings],
    remote: NamedDependency[RemoteServices],
) -> AppendedEvents:
    events = events_to_append(data.events, settings)
    if data.sends or data.records:
        placed = await _placed(remote, principal, worker_id, settings, data, with_step=True)
        events = step_that_sends(events, placed)
    append = RemoteAppend(principal.tenant, worker_id, data.message_id, data.lease, data.first_seq, events)
    answer = await remote.writer.append(append)
    return AppendedEvents(data.first_seq + len(events) - 1, answer.cancel_requested)


@post(
    "/workers/{worker_id:str}/finish",
    operation_id="finishMessage",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="End an attempt: completed, failed, to be retried, put off, given back, or waiting for a person",
    description="The last events and the result are committed together. 409: the lease is lost, and nothing is"
    " written.",
    responses=refusals(NotFound, Conflict, QueueFull),
)
async def finish_message(
    worker_id: WorkerId,
    data: JSONBody[NewEnding],
    principal: NamedDependency[Principal],
    settings: NamedDependency[Settings],
    remote: NamedDependency[RemoteServices],
) -> EndedAttempt:
    placed: list[Placed] = []
    if data.sends or data.records:
        with contextlib.suppress(LeaseLost):  # a repeat finds the end of its message
            placed = await _placed(remote, principal, worker_id, settings, data, with_step=False)
    outcome = outcome_of(data, settings, placed)
    if outcome.kind == "overloaded":
        waited = await remote.store.overloaded_seconds(principal.tenant, worker_id, data.message_id, data.lease)
        outcome = put_off(outcome.error or "", waited, settings, asked_seconds=outcome.delay_seconds or 0.0)
    finish = RemoteFinish(
        principal.tenant,
        worker_id,
        data.message_id,
        data.lease,
        data.attempt,
        outcome,
        json_or_none("usage", data.usage, settings.max_event_bytes),
        data.first_seq,
        events_to_append(data.events, settings),
    )
    answer = await remote.writer.finish(finish)
    return EndedAttempt(data.message_id, answer.status)  # type: ignore[arg-type]  # the others are raised


@post(
    "/workers/{worker_id:str}/heartbeat",
    operation_id="sendHeartbeat",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Say that a remote worker lives, and which leases it holds",
    description="The answer names the leases whose attempts must end. 404: the worker was taken for dead; it registers"
    " again.",
    responses=refusals(NotFound),
)
async def send_heartbeat(
    worker_id: WorkerId,
    data: JSONBody[NewHeartbeat],
    principal: NamedDependency[Principal],
    settings: NamedDependency[Settings],
    remote: NamedDependency[RemoteServices],
) -> Verdicts:
    return Verdicts(
        await remote.store.heartbeat(
            tenant=principal.tenant,
            worker=worker_id,
            leases=data.leases,
            interval=settings.heartbeat_interval,
            lease_seconds=remote.lease_seconds,
            grace=settings.worker_timeout,
        )
    )


@delete(
    "/workers/{worker_id:str}",
    operation_id="deregisterWorker",
    scope="work",
    unrestricted=True,
    summary="Sign a remote worker off; what it still has is claimed by others",
)
async def deregister_worker(
    worker_id: WorkerId, principal: NamedDependency[Principal], remote: NamedDependency[RemoteServices]
) -> None:
    """A repeat does nothing."""
    await remote.store.sign_off(principal.tenant, worker_id)


async def _placed(
    remote: RemoteServices,
    principal: Principal,
    worker_id: str,
    settings: Settings,
    data: NewEvents | NewEnding,
    *,
    with_step: bool,
) -> list[Placed]:
    """What a call sends that earlier attempts have not. Raises LeaseLost, Unprocessable."""
    sender = await remote.sender(principal.tenant, worker_id, data)
    if with_step and sender.delivery == EXACTLY_ONCE:
        raise Unprocessable(AT_ITS_END)
    placed = place_all(sender, data.message_id, data.sends, data.records, settings)
    return await remote.check(principal.tenant, placed)


router = Router(
    "/",
    route_handlers=[
        *(
            list_workers,
            register_worker,
            claim_messages,
            append_events,
            finish_message,
            place_sent_message,
            place_published_record,
            read_history,
            read_children,
            send_heartbeat,
            deregister_worker,
        )
    ],
    tags=["Workers"],
)
