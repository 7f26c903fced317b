"""`Agent` and the decorator `@agent`: how a function becomes an agent."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, Unpack, get_type_hints

import msgspec

from service.agents.contract import Rejected
from service.agents.input_schemas import input_schema
from service.agents.json_types import return_type, unwritable
from service.agents.limits import LimitOptions, Limits
from service.agents.protobuf_types import from_json
from service.limits import AGENT_NAME_RULE, SUBSCRIPTION_NAME_PATTERN, SUBSCRIPTION_NAME_RULE, is_agent_name


def agent(name: str, **limits: Unpack[LimitOptions]) -> Callable[[Callable[..., Any]], "Agent"]:
    """Make a function an agent: `@agent("summarise", timeout=60)`.

    `name` is what clients ask for: 1 to 100 characters, none of them a control character or a slash, and neither "."
    nor "..". With `topics`: 1 to 100 of letters, digits, ".", "_" and "-", and neither "." nor "..". The keyword
    arguments are explained at `Limits`.
    Raises ValueError or TypeError if the name, a limit or the function cannot make an agent.
    """

    def decorate(function: Callable[..., Any]) -> Agent:
        return Agent(name, function, **limits)

    return decorate


class Agent:
    """A function that answers messages, with its name and limits. Calling the agent calls the function.

    `limits.description` is filled from the docstring if none is given. The worker's settings apply where `timeout`,
    `max_attempts` or `max_losses` is None. Raises ValueError or TypeError if the arguments cannot make an agent.
    """

    def __init__(self, name: str, function: Callable[..., Any], **limits: Unpack[LimitOptions]) -> None:
        if not isinstance(name, str) or not is_agent_name(name):
            raise ValueError(f"an agent's name must be {AGENT_NAME_RULE}; {name!r} is not")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"the agent {name!r} is a generator: emit each piece instead of yielding it")
        if cls := unwritable(return_type(function)):
            raise TypeError(
                f"the agent {name!r} returns {cls}, which has no JSON form: return text, a Struct or a dict"
            )
        declared = Limits(**limits)
        if declared.topics and not re.match(SUBSCRIPTION_NAME_PATTERN, name):
            raise ValueError(f"the agent {name!r} has topics, so its name must be {SUBSCRIPTION_NAME_RULE}")
        self.name = name
        self.function = function
        self.limits = msgspec.structs.replace(declared, description=declared.description or _first_paragraph(function))
        self.settings: dict[str, Any] = {}  # more that clients see of it, beside those of its limits
        self.is_async = inspect.iscoroutinefunction(function)
        self.input_type = input_type(function)
        # The JSON Schema of the input; None if the agent takes text. Clients submit text or an object; only records of
        # topics have other values.
        submitted = str | dict[str, Any] if self.input_type is Any else self.input_type
        self.input_schema = None if submitted is str else input_schema(submitted)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def decode(self, body: Any) -> Any:
        """Convert the message to the type that the agent declares. Raises Rejected if it does not fit."""
        if self.input_type is str and isinstance(body, str):
            return body
        try:
            return msgspec.convert(body, self.input_type, str_keys=True, dec_hook=from_json)
        except msgspec.ValidationError as error:
            raise Rejected(f"The message does not fit the agent's input: {error}.") from None


def input_type(function: Callable[..., Any]) -> Any:
    """The type of the second parameter; `str` without an annotation. Raises TypeError unless there are two."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"an agent takes a context and its input; {name} takes {len(parameters)} arguments")
    while isinstance(function, functools.partial):
        function = function.func
    hints = get_type_hints(function)
    return hints.get(parameters[1].name, str)


def _first_paragraph(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
