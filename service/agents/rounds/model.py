"""What a provider gives: its API, and the answers of its models."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

StreamTo: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Receives a kind, `text` or `thinking`, and a piece of it."""


class Call(msgspec.Struct, frozen=True):
    """The model calls a tool."""

    id: str
    name: str
    input: Any


class CallResult(msgspec.Struct, frozen=True):
    """The result of the call with this id, as the model receives it."""

    id: str
    text: str
    failed: bool = False


class ModelAnswer(Protocol):
    """The answer to one call of the API. It is stored as JSON, and read as the API's `answer_type`."""

    model: str
    stop_reason: str | None
    usage: dict[str, int]  # by the names of the Messages API of Anthropic

    @property
    def text(self) -> str: ...

    @property
    def pieces(self) -> Iterable[tuple[str, str]]:
        """The streamed pieces, in order: the kind and the text."""

    @property
    def calls(self) -> Sequence[Call]:
        """The complete tool calls; empty if the answer was cut off."""

    @property
    def is_unfinished(self) -> bool:
        """Whether the model must be called again."""

    @property
    def refusal(self) -> str | None:
        """Why the model refuses to answer, or an empty text if it does not say; None if it does not refuse."""

    @property
    def ends_in_a_call(self) -> bool:
        """Whether the answer was cut off in the middle of a tool call."""


class Api(Protocol):
    """A worker's connection to a provider. `model` is the default of agents that name none."""

    model: str

    @property
    def provider(self) -> str:
        """Its name in the conventions of OpenTelemetry for GenAI."""

    @property
    def answer_type(self) -> type: ...

    async def call(self, request: dict[str, Any], stream_to: StreamTo) -> Any:
        """The model's answer; `request` has `messages`. Raises Rejected, Overloaded, RetryAfter or ConnectionError,
        depending on the provider's error, and RequestRefused if one with less history may be accepted."""

    def add_answer(self, messages: list[dict[str, Any]], answer: Any) -> None:
        """Add the answer to the messages of the next request."""

    def add_results(self, messages: list[dict[str, Any]], results: Sequence[CallResult]) -> None:
        """Add the results of its calls."""
