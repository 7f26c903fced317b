"""An AutoGen team, or a single agent, as an agent: what its agents say as it comes, and a retry that pays for no model
call twice.

    from service.agents.adapters.autogen.agent import Kit, autogen_agent

    def writers(kit: Kit) -> RoundRobinGroupChat:
        model = kit.model(OpenAIChatCompletionClient(model="..."))
        ...

    story = autogen_agent("story", writers, timeout=300)

The function makes a fresh team for each attempt. AutoGen warns that the state of a running team may not be consistent,
so it is not saved on the way. Instead each model call through `kit.model` and each tool call through `kit.tool` is a
step of the message: a later attempt is given their results and goes the same way again, at no cost, to where the last
one ended. So the team's own rules (who speaks next, when it is over) hold as if nothing had happened.

It is the same where the team asks a person (`kit.user`): the message is parked until there is an answer, and then the
team goes its way again to where it has asked. Between the messages of a thread its state is kept, if so wished
(`keep_state`).
"""

import asyncio
import functools
import hashlib
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from service.agents.adapters.frameworks import require
from service.agents.contract import Context, Rejected
from service.agents.definition import Agent, input_type
from service.agents.http_errors import patient
from service.agents.limits import LimitOptions
from service.agents.tool_events import ToolCall, ToolResult, plain, tell

if TYPE_CHECKING:
    from autogen_agentchat.agents import UserProxyAgent
    from autogen_core.models import ChatCompletionClient, LLMMessage

HISTORY = 50  # messages of the thread
CANCEL_SECONDS = 0.3  # for a team to heed its cancellation token
ASKED = "The team's agent {!r} asks a person by itself: make it with kit.user(), which can wait for the answer."


class UserInput(msgspec.Struct, frozen=True):
    """A message that says who asks; a text alone is the user's."""

    content: str
    source: str = "user"


class AgentOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of a `message` event: what an agent of the team, or who asked it, said. `type` is AutoGen's, e.g.
    TextMessage. As a result (`output=AgentOutput.of`) it is the last message, and says why the team has stopped."""

    source: str
    type: str
    content: Any
    stop_reason: str | None = None

    @classmethod
    def of(cls, result: Any) -> "AgentOutput":
        """Of AutoGen's TaskResult; raises ValueError where nobody has said anything."""
        if (item := _last_item(result)) is None:
            raise ValueError("The team has said nothing.")
        return cls(item.source, item.type, _content(item), result.stop_reason)


class Kit:
    """What a team is made with: the message's context, models and tools whose results are stored, people who are asked,
    and the thread."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.trouble: Exception | None = None  # what a model call raised last
        self.users: Counter[str] = Counter()  # how often each was asked in this attempt
        self._models = 0
        self._calls: Counter[str] = Counter()

    def model(self, client: "ChatCompletionClient") -> "ChatCompletionClient":
        """The same model, each of its answers stored as a step."""
        from service.agents.adapters.autogen.model import StepClient

        self._models += 1
        return StepClient(client, functools.partial(self.step, f"model {self._models}"), self._note)

    def tool(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """The same function for an agent's `tools`, each of its results (as JSON) stored as a step."""

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                if inspect.iscoroutinefunction(function):
                    return plain(await function(*args, **kwargs))
                return plain(await asyncio.to_thread(function, *args, **kwargs))

            asked = [*args, {name: value for name, value in kwargs.items() if name != "cancellation_token"}]
            return await self.step(f"tool {function.__name__}"[:150], asked, run)

        return call

    def user(self, name: str, description: str = "A person who is asked.") -> "UserProxyAgent":
        """An agent of the team that says what a person answers; the message is parked until then. The question is what
        the one before has said."""
        from service.agents.adapters.autogen.user import Person

        async def ask(heard: Any) -> str:
            self.users[name] += 1
            question = None if heard is None else _content(heard)
            answer = await self.context.input(question, name=f"user {name[:150]} {self.users[name]}")
            return answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()

        self.users[name] = 0
        return Person(name, description, ask)

    async def history(self, limit: int = HISTORY) -> "list[LLMMessage]":
        """The thread as an agent's `model_context` takes it, e.g.
        UnboundedChatCompletionContext(initial_messages=await kit.history())."""
        from autogen_core.models import AssistantMessage, UserMessage

        messages: list[LLMMessage] = []
        for exchange in await self.context.history(limit):
            asked, answer = (
                said.get("content") if isinstance(said, dict) else said for said in (exchange.message, exchange.result)
            )
            if isinstance(asked, str) and isinstance(answer, str):
                messages.append(UserMessage(content=asked, source="user"))
                messages.append(AssistantMessage(content=answer, source="assistant"))
        return messages

    def _note(self, error: Exception) -> None:
        self.trouble = error

    async def step(self, what: str, asked: Any, run: Callable[[], Awaitable[Any]]) -> Any:
        """Store what a call came to. It is known again by what it was asked, whoever asks and in whatever order; the
        second that asks the same is the second in the next attempt, too."""
        name = f"{what} {hashlib.sha256(msgspec.json.encode(plain(asked), order='sorted')).hexdigest()[:16]}"
        self._calls[name] += 1
        return await self.context.step(f"{name} {self._calls[name]}", run)


def autogen_agent(
    name: str,
    make: Callable[[Kit], Any],
    *,
    input: Callable[[Context, Any], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    speakers: Collection[str] | None = None,
    keep_state: bool = False,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a team an agent.

    make        a function, sync or async, from a Kit to a fresh team or agent; called for each attempt
    input       a function, sync or async, from context and message to the team's task; its annotation is the message's
                type. If none, the task is the text, or that of a UserInput
    output      a function from AutoGen's TaskResult to the result, e.g. AgentOutput.of. If none: the last message, its
                text or, where it is structured, its content
    speakers    the agents whose tokens (model_client_stream=True) are the answer; if none, all
    keep_state  begin each message of a thread with the team as the last one left it: its state is saved with the
                message's completion, in the thread's state under the agent's name
    """
    require("autogen_agentchat", framework="AutoGen", extra="autogen")
    input = input or _task

    async def answer(context: Context, message: Any) -> Any:
        """Runs an AutoGen team."""
        task = input(context, message)
        runner = _Runner(Kit(context), output or _last, speakers, name if keep_state else None)
        return await runner.run(make, await task if inspect.isawaitable(task) else task)

    answer.__annotations__["message"] = input_type(input)
    return Agent(name, answer, **limits)


class _Runner:
    """One attempt of a team."""

    def __init__(
        self, kit: Kit, output: Callable[[Any], Any], speakers: Collection[str] | None, keep_as: str | None
    ) -> None:
        self._kit = kit
        self._context = kit.context
        self._output = output
        self._speakers = speakers
        self._keep_as = keep_as

    async def run(self, make: Callable[[Kit], Any], task: Any) -> Any:
        from autogen_core import CancellationToken

        # What a team remembers of its thread is its kept state, or what its maker takes from kit.history().
        made = make(self._kit)
        team = await made if inspect.isawaitable(made) else made
        kept = self._context.memory.get(self._keep_as) if self._keep_as is not None else None
        if kept is not None:
            await team.load_state(kept)
        token = CancellationToken()
        logging.getLogger("autogen_core").addFilter(_is_trouble)
        running = asyncio.ensure_future(self._follow(team, task, token))
        running.add_done_callback(_forget)
        try:
            result = plain(self._output(await asyncio.shield(running)))
            if self._keep_as is not None:
                self._context.memory[self._keep_as] = plain(await team.save_state())
            return result
        except asyncio.CancelledError:
            token.cancel()  # the team's agents end by it, and its stream waits for them
            await asyncio.wait({running}, timeout=CANCEL_SECONDS)
            running.cancel()
            raise

    async def _follow(self, team: Any, task: Any, token: Any) -> Any:
        """Run the team; returns AutoGen's TaskResult."""
        tokens: Counter[str] = Counter()
        result: Any = None
        stream = team.run_stream(task=task, cancellation_token=token)
        try:
            async for item in stream:
                if hasattr(item, "stop_reason"):
                    result = item
                else:
                    _count(tokens, item)
                    await self._tell(item)
        except BaseException as error:
            token.cancel()
            # The stream waits for its agents, which end by the token; nobody waits for those that do not heed it.
            closing = asyncio.ensure_future(stream.aclose())
            closing.add_done_callback(_forget)
            try:
                await asyncio.wait({closing}, timeout=CANCEL_SECONDS)
            finally:
                closing.cancel()
            if not isinstance(error, Exception) or (cause := self._cause(error)) is error:
                raise
            raise cause from error
        self._context.usage(**tokens, stop_reason=result.stop_reason)
        return result

    async def _tell(self, item: Any) -> None:
        """Hand on a message or an event of the team."""
        context, source = self._context, item.source
        match item.type:
            case "ModelClientStreamingChunkEvent":
                if self._speakers is None or source in self._speakers:
                    await context.emit(item.content)
            case "ToolCallRequestEvent":
                for call in item.content:
                    await tell(
                        context, "tool", **_fields(ToolCall(call.id, call.name, _decoded(call.arguments), source))
                    )
            case "ToolCallExecutionEvent":
                for done in item.content:
                    failed = bool(done.is_error)
                    await tell(
                        context, "tool", **_fields(ToolResult(done.call_id, done.name, done.content, failed, source))
                    )
            case "ThoughtEvent":
                await tell(context, "thinking", source=source, content=item.content)
            case "UserInputRequestedEvent":
                if source not in self._kit.users:
                    raise Rejected(ASKED.format(source))
            case _:
                await tell(context, "message", **_fields(AgentOutput(source, item.type, _content(item))))

    def _cause(self, error: Exception) -> Exception:
        """The error of a model, which a team hands on as a RuntimeError with a traceback for its text."""
        text, _, _ = str(error).partition("\nTraceback:")
        trouble = self._kit.trouble
        if trouble is not None and text == f"{type(trouble).__name__}: {trouble}":
            return patient(trouble)
        return RuntimeError(text) if type(error) is RuntimeError else patient(error)


def _is_trouble(record: logging.LogRecord) -> bool:
    """AutoGen logs it as an error, at length, that an agent was cancelled."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _forget(task: asyncio.Future[Any]) -> None:
    """Nobody may be left who asks how it ended."""
    if not task.cancelled():
        task.exception()


def _task(context: Context, message: str | UserInput) -> Any:
    """The team's task where nobody says otherwise."""
    from autogen_agentchat.messages import TextMessage

    said = UserInput(message) if isinstance(message, str) else message
    return TextMessage(content=said.content, source=said.source)


def _last(result: Any) -> Any:
    """What the last message of a team's run says."""
    item = _last_item(result)
    return None if item is None else _content(item)


def _last_item(result: Any) -> Any:
    return next((item for item in reversed(result.messages) if hasattr(item, "to_model_text")), None)


def _content(item: Any) -> Any:
    return plain(item.content) if hasattr(getattr(item, "content", None), "model_dump") else item.to_text()


def _count(tokens: Counter[str], item: Any) -> None:
    if item.models_usage is not None:
        tokens["prompt_tokens"] += item.models_usage.prompt_tokens
        tokens["completion_tokens"] += item.models_usage.completion_tokens


def _fields(data: msgspec.Struct) -> dict[str, Any]:
    """As an event has them; the field that may be large last, for `tell`."""
    fields: dict[str, Any] = plain(data)
    large = next(name for name in ("content", "output", "input") if name in fields)
    value = fields.pop(large)
    return {**fields, large: value}


def _decoded(arguments: str) -> Any:
    """A tool call's arguments: JSON, as a rule."""
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments
