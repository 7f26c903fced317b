"""Python functions as tools of a model: what the model is told of them, and how they are called."""

import asyncio
import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import msgspec

from service.agents.contract import Context, Rejected, RetryAfter
from service.agents.thread_bridge import ThreadBridge
from service.agents.tool_events import plain

MAX_OUTPUT_CHARS = 100_000  # of a result, as the model reads it
MAX_ERROR_CHARS = 2_000

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # the API's rule

Declared = Callable[..., Any] | Mapping[str, Any]


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call came to: JSON, or an error's text."""

    output: Any
    failed: bool = False

    @property
    def text(self) -> str:
        """As the model reads it."""
        return self.output if isinstance(self.output, str) else msgspec.json.encode(self.output).decode()


class Tool:
    """A typed function, sync or async. The model knows it by its name, its docstring, and its parameters' annotations;
    a first parameter that is annotated Context is given the message's.

    Raises TypeError or ValueError for what cannot be a tool.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = str(getattr(function, "__name__", ""))
        if not _NAME.fullmatch(self.name):
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
        # As the API takes it.
        self.definition = {
            "name": self.name,
            "description": inspect.getdoc(function) or "",
            "input_schema": {**schema, **({"$defs": components} if components else {})},
        }

    async def call(self, context: "CallContext", asked: Any) -> Output:
        """Call it with what the model gave. What it raises is the output, but for Rejected and RetryAfter."""
        try:
            given = msgspec.structs.asdict(msgspec.convert(asked, self._arguments, str_keys=True))
        except msgspec.ValidationError as error:
            return Output(f"The arguments do not fit: {error}.", failed=True)
        if not inspect.iscoroutinefunction(self._function):
            bridge = ThreadBridge()
            try:
                return await asyncio.to_thread(self._run, SyncCallContext(context, bridge), given)
            finally:
                bridge.close()
        try:
            return _whole(await self._function(*([context] if self._with_context else []), **given))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return _failed(error)

    def _run(self, context: "SyncCallContext", given: dict[str, Any]) -> Output:
        try:
            return _whole(self._function(*([context] if self._with_context else []), **given))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return _failed(error)


class Toolbox:
    """An agent's tools: functions, and definitions (dicts) of tools that Anthropic runs itself."""

    def __init__(self, declared: Sequence[Declared]) -> None:
        self._tools: dict[str, Tool] = {}
        self.definitions: list[dict[str, Any]] = []
        for item in declared:
            if isinstance(item, Mapping):
                self.definitions.append(dict(item))
            else:
                tool = Tool(item)
                self._tools[tool.name] = tool
                self.definitions.append(tool.definition)
        names = [definition["name"] for definition in self.definitions if "name" in definition]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"there are two tools of the name {twice!r}")

    async def call(self, context: Context, step: str, name: str, asked: Any) -> Output:
        """Call a tool in its step."""
        tool = self._tools.get(name)
        if tool is None:
            return Output(f"There is no tool {name!r}.", failed=True)
        return await tool.call(CallContext(context, step), asked)


def arguments(name: str, parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A Struct of a function's parameters. Raises TypeError for one without a type, or that cannot be given by name."""
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"its parameter {parameter.name} cannot be given by name")
        if parameter.name not in hints:
            raise TypeError(f"its parameter {parameter.name} has no type")
        field = parameter.name, hints[parameter.name]
        fields.append(field if parameter.default is parameter.empty else (*field, parameter.default))
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)


class CallContext:
    """The message's context, as one call of a tool has it: its steps, what it sends and what it asks have names of its
    own. Else a call that is not made again would leave its place in their count, or its answer, to another one."""

    def __init__(self, context: Context, call: str) -> None:
        self._context = context
        self._call = call
        self._unnamed: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def step(self, name: str, function: Callable[[], Any]) -> Any:
        return await self._context.step(f"{self._call}: {name}", function)

    async def send(self, message: Any, *, name: str | None = None, **options: Any) -> str:
        return await self._context.send(message, name=self._own("send", name), **options)

    async def input(self, question: Any = None, *, name: str | None = None) -> Any:
        return await self._context.input(question, name=self._own("input", name))

    def _own(self, kind: str, name: str | None) -> str:
        if name is None:
            self._unnamed[kind] += 1
            name = f"{kind} {self._unnamed[kind]}"
        return f"{self._call}: {name}"


class SyncCallContext:
    """The same for a sync tool, which runs in a thread: methods wait instead of being awaited."""

    def __init__(self, context: CallContext, bridge: ThreadBridge) -> None:
        self._context = context
        self._bridge = bridge

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._context, name)
        return functools.partial(self._wait, member) if inspect.iscoroutinefunction(member) else member

    def _wait(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._bridge.wait(method(*args, **kwargs))


def _whole(value: Any) -> Output:
    """A result that the model can be given."""
    output = Output(plain(value))
    if (size := len(output.text)) > MAX_OUTPUT_CHARS:
        return Output(f"The result has {size} characters; at most {MAX_OUTPUT_CHARS} are allowed.", failed=True)
    return output


def _failed(error: BaseException) -> Output:
    if isinstance(error, Rejected | RetryAfter):
        raise error
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Output(said[:MAX_ERROR_CHARS], failed=True)
