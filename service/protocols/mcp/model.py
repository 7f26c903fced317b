"""JSON-RPC as clients of the protocol send and receive it."""

from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

RequestId: TypeAlias = str | int

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NO_RESOURCE = -32002


class Call(Struct, frozen=True):
    """A request, or (without an id) a notification. Answers of the client, which have no method, mean nothing here."""

    method: Annotated[str | None, Meta(description="a text")] = None
    id: Annotated[RequestId | None, Meta(description="a text or a number")] = None
    params: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    jsonrpc: str = "2.0"


class Error(Struct, frozen=True):
    code: int
    message: str
    data: Any = UNSET


class Answer(Struct, frozen=True):
    id: RequestId
    result: Any = UNSET
    error: Error | UnsetType = UNSET
    jsonrpc: str = "2.0"


class Notification(Struct, frozen=True):
    method: str
    params: dict[str, Any]
    jsonrpc: str = "2.0"


class CallRefused(Exception):
    """A request is answered with an error. The text is one sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
