"""Requests and answers as clients of the dialect know them.

Clients send many more fields, which mean nothing here.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from service.messages.model import Priority

# The descriptions end the sentence "<field> must be ..." (json_input).
Text: TypeAlias = Annotated[str | None, Meta(description="a text")]
Flag: TypeAlias = Annotated[bool | None, Meta(description="true or false")]
Object: TypeAlias = Annotated[dict[str, Any] | None, Meta(description="an object")]
Objects: TypeAlias = Annotated[list[dict[str, Any]] | None, Meta(description="a list of objects")]

Item: TypeAlias = dict[str, Any]
ResponseState: TypeAlias = Literal["queued", "in_progress", "completed", "failed", "cancelled"]


class Kept(Struct, frozen=True, omit_defaults=True):
    """The part of a request that is kept for the agent and for the answers: `metadata["openai"]` of its message."""

    instructions: Any = None
    tools: Objects = None
    tool_choice: Any = None
    parallel_tool_calls: Flag = None
    text: Object = None
    response_format: Object = None
    reasoning: Object = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: Object = None
    user: Text = None
    input: Any = None  # where it is a list of items
    previous_response_id: str | None = None
    conversation: str | None = None  # that the client named
    background: Flag = None
    store: Flag = None


class NewResponse(Struct, frozen=True):
    """`message` and `priority` are ours: an object for an agent that takes one, and the priority of the message."""

    model: Text = None
    input: Annotated[str | list[Item] | None, Meta(description="a text or a list of items")] = None
    instructions: Any = None
    previous_response_id: Text = None
    conversation: Annotated[str | dict[str, Any] | None, Meta(description="an id, or an object with one")] = None
    stream: Flag = None
    background: Flag = None
    store: Flag = None
    tools: Objects = None
    tool_choice: Any = None
    parallel_tool_calls: Flag = None
    text: Object = None
    reasoning: Object = None
    max_output_tokens: Annotated[int | None, Meta(description="a whole number")] = None
    temperature: Annotated[float | None, Meta(description="a number")] = None
    top_p: Annotated[float | None, Meta(description="a number")] = None
    metadata: Object = None
    user: Text = None
    message: Object = None
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"


class NewCompletion(Struct, frozen=True):
    """`message` and `priority` as in NewResponse."""

    messages: Annotated[list[Item], Meta(min_length=1, description="a list of at least one message")]
    model: Text = None
    stream: Flag = None
    stream_options: Object = None
    n: Annotated[int | None, Meta(description="a whole number")] = None
    tools: Objects = None
    tool_choice: Any = None
    parallel_tool_calls: Flag = None
    response_format: Object = None
    reasoning_effort: Text = None
    max_tokens: Annotated[int | None, Meta(description="a whole number")] = None
    max_completion_tokens: Annotated[int | None, Meta(description="a whole number")] = None
    temperature: Annotated[float | None, Meta(description="a number")] = None
    top_p: Annotated[float | None, Meta(description="a number")] = None
    metadata: Object = None
    user: Text = None
    message: Object = None
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"


class NewConversation(Struct, frozen=True):
    items: Objects = None
    metadata: Object = None


class Error(Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(Struct, frozen=True):
    error: Error


class Usage(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(Struct, frozen=True, kw_only=True):
    """Validators want every field, and null where it means nothing."""

    id: str
    object: str = "response"
    created_at: int
    status: ResponseState
    completed_at: int | None = None
    background: bool = False
    conversation: dict[str, str] | None = None
    error: dict[str, str] | None = None
    frequency_penalty: float = 0.0
    incomplete_details: None = None
    instructions: Any = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, Any]
    model: str
    output: list[Item]
    parallel_tool_calls: bool = True
    presence_penalty: float = 0.0
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float = 1.0
    text: dict[str, Any]
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]]
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: str = "disabled"
    usage: Usage | None = None
    user: str | None = None


class Deleted(Struct, frozen=True):
    id: str
    object: str
    deleted: bool = True


class ItemPage(Struct, frozen=True):
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: str = "list"


class Conversation(Struct, frozen=True):
    id: str
    created_at: int
    metadata: dict[str, Any]
    object: str = "conversation"


class Model(Struct, frozen=True):
    id: str
    created: int
    owned_by: str = "treadle"
    object: str = "model"


class ModelList(Struct, frozen=True):
    data: list[Model]
    object: str = "list"
