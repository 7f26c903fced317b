"""Requests as clients of the dialect send them, and the part that is kept.

Clients send many more fields, which mean nothing here. Answers are plain objects (`answers`).
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from service.limits import MAX_DELAY_SECONDS, MAX_PAGE_ITEMS

# The descriptions end the sentence "<field> must be ..." (json_input).
Text: TypeAlias = Annotated[str | None, Meta(description="a text")]
Flag: TypeAlias = Annotated[bool | None, Meta(description="true or false")]
Object: TypeAlias = Annotated[dict[str, Any] | None, Meta(description="an object")]
Texts: TypeAlias = Annotated[list[str] | None, Meta(description="a list of texts")]
Limit: TypeAlias = Annotated[
    Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS)] | None,
    Meta(description=f"a whole number from 1 to {MAX_PAGE_ITEMS}"),
]
Offset: TypeAlias = Annotated[
    Annotated[int, Meta(ge=0, le=1_000_000)] | None, Meta(description="a whole number from 0 to 1000000")
]
Order: TypeAlias = Annotated[Literal["asc", "desc"] | None, Meta(description="asc or desc")]
ThreadStatus: TypeAlias = Annotated[
    Literal["idle", "busy", "interrupted", "error"] | None, Meta(description="idle, busy, interrupted or error")
]
Json: TypeAlias = dict[str, Any]

MODES = frozenset(
    {
        *("values", "messages", "messages-tuple", "updates", "custom"),
        *("events", "debug", "tasks", "checkpoints", "tools", "lifecycle"),
    }
)


class NewRun(Struct, frozen=True):
    assistant_id: Annotated[str, Meta(description="the id or the name of an assistant")]
    input: Any = None
    command: Annotated[Json | None, Meta(description="an object with resume, update or goto")] = None
    stream_mode: Annotated[str | list[str] | None, Meta(description="a stream mode or a list of them")] = None
    stream_subgraphs: Flag = None
    metadata: Object = None
    config: Object = None
    context: Object = None
    interrupt_before: Annotated[list[str] | Literal["*"] | None, Meta(description="a list of names of nodes, or *")] = (
        None
    )
    interrupt_after: Annotated[list[str] | Literal["*"] | None, Meta(description="a list of names of nodes, or *")] = (
        None
    )
    multitask_strategy: Annotated[
        Literal["enqueue", "reject", "interrupt", "rollback"] | None,
        Meta(description="enqueue, reject, interrupt or rollback"),
    ] = None
    if_not_exists: Annotated[Literal["create", "reject"] | None, Meta(description="create or reject")] = None
    on_disconnect: Annotated[Literal["cancel", "continue"] | None, Meta(description="cancel or continue")] = None
    on_completion: Annotated[Literal["delete", "keep"] | None, Meta(description="delete or keep")] = None
    after_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS)] | None,
        Meta(description=f"a number from 0 to {MAX_DELAY_SECONDS} (366 days)"),
    ] = None
    webhook: Text = None
    checkpoint_id: Text = None
    checkpoint: Object = None


class Kept(Struct, frozen=True, omit_defaults=True):
    """The part of a run that is kept for the agent and for the answers: `metadata["langgraph"]` of its message."""

    input: Any = None  # as the client sent it, where the message says it otherwise
    stream_mode: tuple[str, ...] = ("values",)
    stream_subgraphs: bool = False
    command: Object = None
    config: Object = None
    context: Object = None
    interrupt_before: Any = None
    interrupt_after: Any = None
    multitask_strategy: str = "enqueue"
    graph: bool = False  # the agent is a graph, which writes its own values
    update: Object = None  # of the state; then it is no run
    checkpoint: str | None = None  # the message after whose state it begins (`checkpoints`); None: after the last one
    parent: str | None = None  # the checkpoint that the client has named for it, if that is not the last one
    resumes: bool = False  # it has no input: the graph goes on with the nodes that are due


class NewThread(Struct, frozen=True):
    thread_id: Text = None
    metadata: Object = None
    if_exists: Annotated[Literal["raise", "do_nothing"] | None, Meta(description="raise or do_nothing")] = None
    supersteps: Annotated[list[Any] | None, Meta(description="left out")] = None


class ThreadChanges(Struct, frozen=True):
    metadata: Object = None


class ThreadSearch(Struct, frozen=True):
    ids: Texts = None
    metadata: Object = None
    values: Object = None
    status: ThreadStatus = None
    limit: Limit = None
    offset: Offset = None
    sort_by: Annotated[
        Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None,
        Meta(description="thread_id, status, created_at, updated_at or state_updated_at"),
    ] = None
    sort_order: Order = None
    select: Texts = None
    extract: Object = None


class AssistantSearch(Struct, frozen=True):
    graph_id: Text = None
    name: Text = None
    metadata: Object = None
    limit: Limit = None
    offset: Offset = None
    sort_by: Annotated[
        Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"] | None,
        Meta(description="assistant_id, graph_id, name, created_at or updated_at"),
    ] = None
    sort_order: Order = None
    select: Texts = None


class HistorySearch(Struct, frozen=True):
    limit: Limit = None
    before: Annotated[str | Json | None, Meta(description="the id of a checkpoint, or a checkpoint")] = None
    metadata: Object = None


class StateUpdate(Struct, frozen=True):
    values: Annotated[Json | list[Json] | None, Meta(description="an object")] = None
    as_node: Text = None
    checkpoint_id: Text = None
    checkpoint: Object = None


class CheckpointChoice(Struct, frozen=True):
    checkpoint: Annotated[Json, Meta(description="a checkpoint")]


class ItemPlace(Struct, frozen=True):
    namespace: Annotated[list[str], Meta(description="a list of texts")]
    key: Annotated[str, Meta(description="a text")]


class NewItem(ItemPlace, frozen=True, kw_only=True):
    value: Annotated[Json, Meta(description="an object")]
    ttl: Annotated[float | None, Meta(description="a number of minutes")] = None


class ItemSearch(Struct, frozen=True):
    namespace_prefix: Texts = None
    refresh_ttl: Flag = None
    filter: Object = None
    limit: Limit = None
    offset: Offset = None


class NamespaceSearch(Struct, frozen=True):
    prefix: Texts = None
    suffix: Texts = None
    max_depth: Annotated[Annotated[int, Meta(ge=1, le=20)] | None, Meta(description="a whole number from 1 to 20")] = (
        None
    )
    limit: Limit = None
    offset: Offset = None


class RunsToCancel(Struct, frozen=True):
    thread_id: Text = None
    run_ids: Texts = None
    status: Annotated[Literal["pending", "running", "all"] | None, Meta(description="pending, running or all")] = None
