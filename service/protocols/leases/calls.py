"""/workers/…/send, publish, history and children: what the agents of a remote worker call while they run."""

from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.access.principal import Principal
from service.config import Settings
from service.errors import Conflict
from service.limits import HISTORY_BYTES
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
from service.protocols.leases.sends import place_message, place_record
from service.protocols.leases.services import RemoteServices, WorkerId
from service.protocols.leases.translate import waited_message
from service.refusals import refusals


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
    placed = place_message(sender, data.message_id, data.send, settings, data.used_numbers)
    if placed.is_new:
        await remote.check(principal.tenant, [placed])
    return PlacedMessage(placed.id, placed.is_new, placed.name)


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
    placed = place_record(sender, data.message_id, data.record, settings, data.used_numbers)
    if placed.is_new:
        await remote.check(principal.tenant, [placed])
    return PlacedRecord(placed.id, placed.is_new, placed.name)


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
