"""/workers: the life of a remote worker, and what it does under a lease."""

import contextlib
from typing import Annotated
from uuid import uuid4

from litestar import Router, delete, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter

from service.access.principal import Principal
from service.config import Settings
from service.errors import Conflict, LeaseLost, NotFound, Unprocessable
from service.limits import HISTORY_BYTES
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
from service.protocols.leases.model_sends import (
    NewHistory,
    NewPublication,
    NewSend,
    NewWait,
    PastExchange,
    PastExchanges,
    PlacedMessage,
    PlacedRecord,
    WaitedMessages,
)
from service.protocols.leases.sends import AT_ITS_END, EXACTLY_ONCE, Placed, place_all, place_message, place_record
from service.protocols.leases.services import RemoteServices
from service.protocols.leases.store import Earlier, RemoteAppend, RemoteFinish
from service.protocols.leases.translate import (
    agent_row,
    claimed_message,
    events_to_append,
    json_or_none,
    outcome_of,
    require_each_once,
    step_that_sends,
    waited_message,
)
from service.queues.routes import list_workers
from service.refusals import refusals

WorkerId = Annotated[str, PathParameter(description="The id that the registration returned.")]


@post(
    "/workers",
    operation_id="registerWorker",
    scope="work",
    unrestricted=True,
    status_code=201,
    summary="Register a remote worker with its agents",
    description="It claims messages of the caller's tenant. New agents are registered by workers of `default` only.",
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
    claims = await remote.claims.claim(principal, worker_id, data.quantity, data.wait)
    for claim in claims:
        remote.writer.hint_started(claim)
    again = [claim.message_id for claim in claims if claim.attempt > 1]
    earlier = await remote.store.earlier(again) if again else {}
    return ClaimedMessages([claimed_message(claim, earlier.get(claim.message_id, Earlier())) for claim in claims])


@post(
    "/workers/{worker_id:str}/append",
    operation_id="appendEvents",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Append events to a message under lease",
    description="A repeated call writes nothing twice. A step may have `sends` and `records`, which are committed with"
    " it. 409: the lease is lost, or earlier events are missing.",
    responses=refusals(Conflict),
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
    summary="End an attempt: completed, failed, to be retried, given back, or waiting for a person",
    description="The last events and the result are committed together. 409: the lease is lost, and nothing is"
    " written.",
    responses=refusals(Conflict),
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
    finish = RemoteFinish(
        principal.tenant,
        worker_id,
        data.message_id,
        data.lease,
        data.attempt,
        outcome_of(data, settings, placed),
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


@post(
    "/workers/{worker_id:str}/send",
    operation_id="placeMessage",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Check a message that an attempt is about to send, and tell its id",
    description="It is sent with the next step (append) or with the end (finish) that has it in `sends`. 409: the lease"
    " is lost. 422: an earlier attempt has sent another message under this name, or it is refused.",
    responses=refusals(Conflict),
)
async def place_sent_message(
    worker_id: WorkerId,
    data: JSONBody[NewSend],
    principal: NamedDependency[Principal],
    settings: NamedDependency[Settings],
    remote: NamedDependency[RemoteServices],
) -> PlacedMessage:
    sender = await remote.sender(principal.tenant, worker_id, data)
    placed = place_message(sender, data.message_id, data.send, settings)
    if placed.is_new:
        await remote.check(principal.tenant, placed)
    return PlacedMessage(placed.id, placed.is_new)


@post(
    "/workers/{worker_id:str}/publish",
    operation_id="placeRecord",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Check a record that an attempt is about to publish, and tell its id",
    description="As for a message to send: it is published with the step or the end that has it in `records`.",
    responses=refusals(Conflict),
)
async def place_published_record(
    worker_id: WorkerId,
    data: JSONBody[NewPublication],
    principal: NamedDependency[Principal],
    settings: NamedDependency[Settings],
    remote: NamedDependency[RemoteServices],
) -> PlacedRecord:
    sender = await remote.sender(principal.tenant, worker_id, data)
    placed = place_record(sender, data.message_id, data.record, settings)
    if placed.is_new:
        await remote.check(principal.tenant, placed)
    return PlacedRecord(placed.id, placed.is_new)


@post(
    "/workers/{worker_id:str}/history",
    operation_id="readHistory",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Read the messages of the thread before one under lease",
    description="The last completed ones, oldest first; they have at most 20 MB together. 409: the lease is lost.",
    responses=refusals(Conflict),
)
async def read_history(
    worker_id: WorkerId,
    data: JSONBody[NewHistory],
    principal: NamedDependency[Principal],
    remote: NamedDependency[RemoteServices],
) -> PastExchanges:
    sender = await remote.sender(principal.tenant, worker_id, data)
    if sender.thread is None or sender.ord is None:
        return PastExchanges([])
    found = await remote.threads.exchanges(sender.thread, sender.ord, data.limit, data.tools, HISTORY_BYTES)
    return PastExchanges([PastExchange(past.message, past.result, past.tools) for past in found])


@post(
    "/workers/{worker_id:str}/children",
    operation_id="readChildren",
    scope="work",
    unrestricted=True,
    status_code=200,
    summary="Read the state of messages that an attempt has sent and waits for",
    description="To wait for those that are not over, end the attempt with the outcome `children`. 409: the lease is"
    " lost.",
    responses=refusals(Conflict),
)
async def read_children(
    worker_id: WorkerId,
    data: JSONBody[NewWait],
    principal: NamedDependency[Principal],
    remote: NamedDependency[RemoteServices],
) -> WaitedMessages:
    lease = (principal.tenant, worker_id, data.message_id, data.lease)
    return WaitedMessages([waited_message(child) for child in await remote.store.children(*lease, data.children)])


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
    return [await remote.check(principal.tenant, one) for one in placed]


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
