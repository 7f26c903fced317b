"""Python functions as tools of a model: their definitions for the model, and their calls."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, get_type_hints

import msgspec

from service.agents.contract import Context, Rejected, RetryAfter, Unacceptable
from service.agents.raised import decisive
from service.agents.thread_bridge import ThreadBridge, call_in_thread
from service.agents.tool_events import plain

MAX_OUTPUT_CHARS = 100_000  # of a result, in the form that the model receives
MAX_ERROR_CHARS = 2_000

NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # the API's rule

Declared = Callable[..., Any] | Mapping[str, Any]


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of a call: JSON, or with `failed` an error's text."""

    output: Any
    failed: bool = False

    @property
    def text(self) -> str:
        """The form that the model receives."""
        return self.output if isinstance(self.output, str) else msgspec.json.encode(self.output).decode()


class Tool:
    """A typed function, sync or async. Its name, docstring and annotations are its definition for the model. If the
    first parameter is annotated Context, it receives the message's context.

    Raises TypeError or ValueError for a function that cannot be a tool.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = str(getattr(function, "__name__", ""))
        if not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(f"a tool is a function whose name has 1 to 64 letters, digits and _, not {function!r}")
        self._function = function
        try:
            parameters = list(inspect.signature(function).parameters.values())
            hints = get_type_hints(function, include_extras=True)
            self._with_context = bool(parameters) and hints.get(parameters[0].name) is Context
            self._arguments = arguments(self.name, parameters[self._with_context :], hints)
            (reference,), components = msgspec.json.schema_components([self._arguments])
        except (TypeError, NameError) as error:
            raise TypeError(f"the tool {self.name}: {error}") from error
        schema = components.pop(reference["$ref"].rpartition("/")[2])  # the API wants an object at the top
        del schema["title"]
        self.definition = {
            "name": self.name,
            "description": inspect.getdoc(function) or "",
            "input_schema": {**schema, **({"$defs": components} if components else {})},
        }

    async def call(self, context: "CallContext", given: Any) -> Output:
        """Call the function with the model's arguments. Exceptions become a failed output, except Rejected and
        RetryAfter."""
        try:
            values = msgspec.structs.asdict(msgspec.convert(given, self._arguments, str_keys=True))
        except msgspec.ValidationError as error:
            return Output(f"The arguments do not fit: {error}.", failed=True)
        if not inspect.iscoroutinefunction(self._function):
            bridge = ThreadBridge()
            try:
                return await call_in_thread(self._run, SyncCallContext(context, bridge), values)
            finally:
                bridge.close()
        try:
            return checked_output(await self._function(*([context] if self._with_context else []), **values))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return _failed(error)

    def _run(self, context: "SyncCallContext", values: dict[str, Any]) -> Output:
        try:
            return checked_output(self._function(*([context] if self._with_context else []), **values))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return _failed(error)


class AnyTool(Protocol):
    """A tool with its definition for the model."""

    name: str
    definition: dict[str, Any]

    async def call(self, context: "CallContext", given: Any) -> Output: ...


class Toolbox:
    """An agent's tools: functions, and definitions (dicts) of tools that the provider runs."""

    def __init__(self, declared: Sequence[Declared]) -> None:
        self._tools: dict[str, AnyTool] = {}
        self.definitions: list[dict[str, Any]] = []
        for item in declared:
            if isinstance(item, Mapping):
                self.definitions.append(dict(item))
            else:
                tool = Tool(item)
                self._tools[tool.name] = tool
                self.definitions.append(tool.definition)
        self._check_names()

    def extended(self, tools: Sequence["AnyTool"]) -> "Toolbox":
        """A toolbox with these tools as well. Raises ValueError for two tools of one name."""
        longer = Toolbox(())
        longer._tools = self._tools | {tool.name: tool for tool in tools}
        longer.definitions = [*self.definitions, *(tool.definition for tool in tools)]
        longer._check_names()
        return longer

    def _check_names(self) -> None:
        names = [definition["name"] for definition in self.definitions if "name" in definition]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tools have the name {twice!r}: rename one")

    async def call(self, context: Context, step: str, name: str, given: Any) -> Output:
        """Call the tool of this name. `step` is the name of the call's step."""
        tool = self._tools.get(name)
        if tool is None:
            return Output(f"There is no tool {name!r}.", failed=True)
        return await tool.call(CallContext(context, step), given)


def arguments(name: str, parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A Struct with a function's parameters as fields. Raises TypeError for a parameter that has no type or cannot be
    passed by name."""
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"its parameter {parameter.name} cannot be passed by name")
        if parameter.name not in hints:
            raise TypeError(f"its parameter {parameter.name} has no type")
        field = parameter.name, hints[parameter.name]
        fields.append(field if parameter.default is parameter.empty else (*field, parameter.default))
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)


class CallContext:
    """The message's context for one call of a tool. The names of its steps, sends and questions begin with the name of
    the call. Otherwise, if a later attempt does not repeat this call, another call would take its number or answer."""

    def __init__(self, context: Context, call: str) -> None:
        self._context = context
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        return await self._context.step(f"{self._call}: {name}", function)

    async def send(self, message: Any, *, name: str | None = None, **options: Any) -> str:
        return await self._context.send(message, name=self._own_name(name), **options)

    async def publish(self, topic: str, value: Any, *, name: str | None = None, **options: Any) -> str:
        return await self._context.publish(topic, value, name=self._own_name(name), **options)

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        return await self._context.input(question, name=self._own_name(name))

    def _own_name(self, name: str | None) -> str | None:
        """Those without a name are numbered within the call, which is a step."""
        return name and f"{self._call}: {name}"


class SyncCallContext:
    """The context for a sync tool, which runs in a thread: its methods wait instead of being awaited."""

    def __init__(self, context: CallContext, bridge: ThreadBridge) -> None:
        self._context = context
        self._bridge = bridge

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._context, name)
        return functools.partial(self._wait, member) if inspect.iscoroutinefunction(member) else member

    def _wait(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._bridge.wait(method(*args, **kwargs))


def checked_output(value: Any) -> Output:
    """The output for a result; failed if the result is too large for the model."""
    output = Output(plain(value))
    if (size := len(output.text)) > MAX_OUTPUT_CHARS:
        return Output(f"The result has {size} characters; at most {MAX_OUTPUT_CHARS} are allowed.", failed=True)
    return output


def _failed(error: BaseException) -> Output:
    decision = decisive(error)
    # Unacceptable is told to the model: it can call the tool again with other arguments.
    if isinstance(decision, Rejected | RetryAfter) and not isinstance(decision, Unacceptable):
        raise decision from (None if decision is error else error)
    text = f"{type(decision).__name__}: {decision}" if str(decision) else type(decision).__name__
    return Output(text[:MAX_ERROR_CHARS], failed=True)
