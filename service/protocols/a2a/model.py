"""Requests as clients of the protocol send them. Unknown fields mean nothing here; answers are plain JSON."""

from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from service.limits import MAX_REQUEST_ID_CHARS, MAX_URL_CHARS, PRINTABLE_PATTERN, REQUEST_ID_RULE

VERSION = "1.0"
Json: TypeAlias = dict[str, Any]
RequestId: TypeAlias = Annotated[str, Meta(max_length=MAX_REQUEST_ID_CHARS)] | int | float | None

# The descriptions end the sentence "<field> must be ..." (json_input).
Text: TypeAlias = Annotated[str | None, Meta(description="a text")]
Object: TypeAlias = Annotated[dict[str, Any] | None, Meta(description="an object")]
Texts: TypeAlias = Annotated[list[str] | None, Meta(description="a list of texts")]
HeaderText: TypeAlias = Annotated[
    Annotated[str, Meta(max_length=4000, pattern=r"^(?:[!-~](?:[ -~]*[!-~])?)?$(?![\s\S])")] | None,
    Meta(description="a text of at most 4000 printable characters of ASCII, without a space at its ends"),
]
Number: TypeAlias = Annotated[int | None, Meta(description="a whole number")]


class Part(Struct, frozen=True, rename="camel"):
    """One of `text`, `raw` (base64), `url` and `data`."""

    text: Text = None
    raw: Text = None
    url: Text = None
    data: Any = UNSET
    media_type: Text = None
    filename: Text = None


class Message(Struct, frozen=True, rename="camel"):
    message_id: Annotated[str, Meta(min_length=1, description="a text that is not empty")]
    parts: Annotated[list[Part], Meta(min_length=1, description="a list of at least one part")]
    role: Text = None
    context_id: Text = None
    task_id: Text = None
    metadata: Object = None
    extensions: Texts = None
    reference_task_ids: Texts = None


class Authentication(Struct, frozen=True, rename="camel"):
    """The header Authorization of notifications."""

    scheme: Annotated[
        Annotated[str, Meta(max_length=50, pattern=r"^[A-Za-z0-9_-]*$(?![\s\S])")] | None,
        Meta(description="a name such as Bearer"),
    ] = None
    credentials: HeaderText = None


class PushConfig(Struct, frozen=True, rename="camel"):
    """TaskPushNotificationConfig. `task_id` is not known yet where it comes with the first message of the task."""

    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS, description="an https address")]
    id: Annotated[
        Annotated[str, Meta(max_length=200, pattern=PRINTABLE_PATTERN)] | None,
        Meta(description="a text of at most 200 characters, none of them a control character"),
    ] = None
    task_id: Text = None
    token: HeaderText = None
    authentication: Annotated[Authentication | None, Meta(description="an object")] = None


class ConfigParams(Struct, frozen=True, rename="camel"):
    """Of the methods about one configuration."""

    task_id: Annotated[str, Meta(description="the id of a task")]
    id: Annotated[str, Meta(description="the id of a configuration")]


class ConfigsParams(Struct, frozen=True, rename="camel"):
    task_id: Annotated[str, Meta(description="the id of a task")]


class Configuration(Struct, frozen=True, rename="camel"):
    accepted_output_modes: Texts = None
    history_length: Number = None
    return_immediately: Annotated[bool | None, Meta(description="true or false")] = None
    task_push_notification_config: Annotated[PushConfig | None, Meta(description="an object")] = None


class SendParams(Struct, frozen=True, rename="camel"):
    message: Annotated[Message, Meta(description="an object")]
    configuration: Annotated[Configuration | None, Meta(description="an object")] = None
    metadata: Object = None

    @property
    def settings(self) -> Configuration:
        return self.configuration or Configuration()


class TaskParams(Struct, frozen=True, rename="camel"):
    """Of every method about one task."""

    id: Annotated[str, Meta(description="the id of a task")]
    history_length: Number = None


class ListParams(Struct, frozen=True, rename="camel"):
    context_id: Text = None
    status: Text = None
    page_size: Number = None
    page_token: Text = None
    history_length: Number = None
    status_timestamp_after: Text = None
    include_artifacts: Annotated[bool | None, Meta(description="true or false")] = None


class Call(Struct, frozen=True):
    """A request of JSON-RPC."""

    jsonrpc: Annotated[str, Meta(pattern="^2[.]0$", description="2.0")]
    method: Annotated[str, Meta(description="a text")]
    id: Annotated[RequestId, Meta(description=REQUEST_ID_RULE)] = None
    params: Any = None


class RpcError(Struct, frozen=True):
    code: int
    message: str
    data: list[Json]


class Answer(Struct, frozen=True):
    """An answer of JSON-RPC."""

    id: RequestId
    result: Any = UNSET
    error: RpcError | UnsetType = UNSET
    jsonrpc: str = "2.0"
