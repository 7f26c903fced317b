"""ListTasks: the tasks of the caller, the newest first."""

from datetime import datetime
from uuid import UUID

from service.access.authenticator import require
from service.inspection.model import MessageSummary
from service.inspection.store import MANY_LOOKS
from service.messages.model import decoded
from service.params import parse_time
from service.protocols.a2a.calls import checked_length
from service.protocols.a2a.errors import InvalidParams
from service.protocols.a2a.inputs import parse_task_id
from service.protocols.a2a.model import Json, ListParams
from service.protocols.a2a.services import A2AServices, Caller
from service.protocols.a2a.translate import (
    CANCELED,
    COMPLETED,
    FAILED,
    INPUT_REQUIRED,
    SUBMITTED,
    WORKING,
    changed_at,
    state_of,
    task_of,
)

PAGE_TASKS = 50  # where the client does not say
MAX_PAGE_TASKS = 100
COUNTED_TASKS = 1_000  # totalSize is exact up to here, if MAX_LOOKS find them
MAX_LOOKS = 10  # each at MANY_LOOKS messages, or at COUNTED_TASKS summaries
OWN_STATES = {
    SUBMITTED: "queued",
    INPUT_REQUIRED: "queued",
    WORKING: "processing",
    COMPLETED: "completed",
    FAILED: "failed",
    CANCELED: "cancelled",
}
UNSPECIFIED = ("", "TASK_STATE_UNSPECIFIED")
UNUSED_STATES = ("TASK_STATE_REJECTED", "TASK_STATE_AUTH_REQUIRED")


async def list_tasks(services: A2AServices, caller: Caller, params: ListParams) -> Json:
    """Raises InvalidParams, Forbidden, Invalid."""
    require(caller.principal, "read")
    size = PAGE_TASKS if params.page_size in (None, 0) else params.page_size
    if size is None or not 1 <= size <= MAX_PAGE_TASKS:
        raise InvalidParams(f"pageSize must be a whole number from 1 to {MAX_PAGE_TASKS}.")
    history = checked_length(params.history_length)
    start = parse_task_id(params.page_token) if params.page_token else None
    if params.page_token and start is None:
        raise InvalidParams("pageToken must be the nextPageToken of the page before.")
    search = _Search(services, caller, params)
    found, rest = await search.find(None, COUNTED_TASKS)
    total = len(found)
    if start is not None:
        found, rest = await search.find(start, size)
    tasks: list[Json] = []
    following = rest  # also where nothing was found so far
    if page := found[:size]:
        messages = await services.messages.statuses(caller.principal, page)
        tasks = [
            task_of(decoded(message), artifacts=bool(params.include_artifacts), history=history) for message in messages
        ]
        last = messages[-1].message_id if messages else page[-1]  # the others were deleted, or have no room
        following = rest if last == found[-1] else last
    return {"tasks": tasks, "nextPageToken": str(following or ""), "pageSize": size, "totalSize": total}


class _Search:
    """Looks for the tasks that satisfy the parameters. Raises InvalidParams, Invalid."""

    def __init__(self, services: A2AServices, caller: Caller, params: ListParams) -> None:
        self._services = services
        self._caller = caller
        self._state = None if params.status in (None, *UNSPECIFIED) else params.status
        if self._state not in (None, *OWN_STATES, *UNUSED_STATES):
            raise InvalidParams("status must be the name of a state of tasks, such as TASK_STATE_WORKING.")
        since = params.status_timestamp_after
        self._since: datetime | None = parse_time(since, "statusTimestampAfter") if since else None
        wanted = {"agent": caller.agent, "thread_id": params.context_id or None}
        wanted["state"] = None if self._state is None else OWN_STATES.get(self._state)
        self._wanted = {name: value for name, value in wanted.items() if value is not None}
        if any("\0" in value for value in self._wanted.values()):
            raise InvalidParams("contextId must not contain the NUL character (U+0000).")

    async def find(self, before: UUID | None, quantity: int) -> tuple[list[UUID], UUID | None]:
        """At least so many after a task, if there are so many, and where to go on (None: there are no others)."""
        found: list[UUID] = []
        for _ in range(0 if self._state in UNUSED_STATES else MAX_LOOKS):
            ids, before = await self._look(before, quantity)
            found += ids
            if before is None or len(found) >= quantity:
                break
        return found, before

    async def _look(self, before: UUID | None, quantity: int) -> tuple[list[UUID], UUID | None]:
        inspection, principal = self._services.inspection, self._caller.principal
        if self._since is None and OWN_STATES.get(self._state or "") != "queued":  # the ids satisfy the parameters
            return await inspection.find(principal, self._wanted, before=before, limit=quantity, looks=MANY_LOOKS)
        page = await inspection.page(principal, self._wanted, before=before, limit=COUNTED_TASKS, looks=MANY_LOOKS)
        fitting = [message.message_id for message in page.messages if self._fits(message)]
        return fitting, parse_task_id(page.next_cursor) if page.next_cursor else None

    def _fits(self, message: MessageSummary) -> bool:
        return (self._state is None or state_of(message) == self._state) and (
            self._since is None or changed_at(message) >= self._since
        )
