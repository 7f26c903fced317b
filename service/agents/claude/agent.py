"""Claude, through the Anthropic SDK: the thread's history as the conversation, tokens as they come, tools that are
typed Python functions, and a retry that pays for no finished step twice.

    from service.agents.claude.agent import claude_agent

    desk = claude_agent("desk", system="You answer customers.", tools=[find_order, refund], timeout=300)

The shipped agent `claude` is one of these, without tools. Who is asked, with which key, the registry says when a worker
starts. metadata.system adds to the system prompt, metadata.max_tokens sets the longest answer.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Unpack

import msgspec
from msgspec import Meta

from service.agents.claude.api import Answer, Api
from service.agents.claude.tools import Declared, Output, Toolbox
from service.agents.contract import Context, Rejected
from service.agents.definition import Agent
from service.agents.limits import LimitOptions
from service.agents.tool_events import ToolCall, ToolResult, plain, tell

NAME = "claude"
MAX_TOKENS = 4096
HISTORY = 50  # messages of the thread
MAX_CALLS = 50  # of the model, for one message
MAX_STEP_TOOL_CHARS = 100  # of a tool's name in its step's


class ClaudeInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of more than text: Anthropic's content blocks, as they are."""

    content: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars for a million tokens. Those of the prompt cache follow from `input`, by the factors of Anthropic's price
    list, where they are not given."""

    input: Annotated[float, Meta(ge=0)]
    output: Annotated[float, Meta(ge=0)]
    cache_write: Annotated[float, Meta(ge=0)] | None = None
    cache_read: Annotated[float, Meta(ge=0)] | None = None

    def of(self, usage: Mapping[str, int]) -> float:
        """Dollars."""
        write = 1.25 * self.input if self.cache_write is None else self.cache_write
        read = 0.1 * self.input if self.cache_read is None else self.cache_read
        micro = (
            self.input * usage.get("input_tokens", 0)
            + self.output * usage.get("output_tokens", 0)
            + write * usage.get("cache_creation_input_tokens", 0)
            + read * usage.get("cache_read_input_tokens", 0)
        )
        return round(micro / 1_000_000, 9)


class Template(msgspec.Struct, frozen=True):
    """What makes one agent different from another."""

    model: str | None
    system: str | None
    toolbox: Toolbox
    max_tokens: int
    thinking: dict[str, Any] | None
    history: int
    history_tokens: int | None
    price: Price | None
    max_calls: int
    options: dict[str, Any]


class ClaudeAgent(Agent):
    """An agent that asks Claude, once it is connected; before, or without a key, it rejects what it is asked."""

    def __init__(self, name: str, template: Template, **limits: Unpack[LimitOptions]) -> None:
        super().__init__(name, self._answer, **limits)
        self._template = template
        self._api: Api | None = None

    def connect(self, api: Api | None) -> "ClaudeAgent":
        self._api = api
        return self

    async def _answer(self, context: Context, message: str | ClaudeInput) -> str:
        """Answers with Claude, the thread's history as the conversation."""
        if self._api is None:
            raise Rejected(f"The agent {self.name} needs ANTHROPIC_API_KEY, which this worker does not have.")
        return await _Attempt(self._template, self._api, context).run(message)


def claude_agent(
    name: str,
    *,
    model: str | None = None,
    system: str | None = None,
    tools: Sequence[Declared] = (),
    max_tokens: int = MAX_TOKENS,
    thinking: int | Mapping[str, Any] | None = None,
    history: int = HISTORY,
    history_tokens: int | None = None,
    price: Mapping[str, float] | None = None,
    max_calls: int = MAX_CALLS,
    options: Mapping[str, Any] | None = None,
    **limits: Unpack[LimitOptions],
) -> ClaudeAgent:
    """Make an agent that asks Claude.

    model           if none, MODEL_NAME
    system          the system prompt
    tools           functions, sync or async; or definitions (dicts) of tools that Anthropic runs, as they are
    max_tokens      of one answer of the model
    thinking        how many tokens it may think, at least 1024; or the API's `thinking`, as it is
    history         how many of the thread's last completed messages are the conversation
    history_tokens  the most that these may have, with the system prompt; if none, as many as the model takes
    price           dollars for a million tokens: `input`, `output`, and, if you like, `cache_write` and `cache_read`
    max_calls       of the model, for one message
    options         further parameters of the Messages API, e.g. `temperature`

    The rest is as the decorator has it. Raises ValueError or TypeError for what cannot be an agent.
    """
    if max_tokens < 1 or max_calls < 1 or history < 0:
        raise ValueError("max_tokens and max_calls are at least 1, history at least 0")
    if isinstance(thinking, int):
        if not 1024 <= thinking < max_tokens:
            raise ValueError(f"thinking is at least 1024 tokens and below max_tokens ({max_tokens})")
        thinking = {"type": "enabled", "budget_tokens": thinking}
    template = Template(
        model=model,
        system=system,
        toolbox=Toolbox(tools),
        max_tokens=max_tokens,
        thinking=dict(thinking) if thinking else None,
        history=history,
        history_tokens=history_tokens,
        price=_price(price),
        max_calls=max_calls,
        options=dict(options or {}),
    )
    return ClaudeAgent(name, template, **limits)


class _Final(Exception):
    """Carries an answer past its step, which is to store nothing: the message's own completion does."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class _Attempt:
    """One attempt at a message: model and tools in turn, until the model has no more to ask for."""

    def __init__(self, template: Template, api: Api, context: Context) -> None:
        self._template = template
        self._api = api
        self._context = context
        self._usage: Counter[str] = Counter()
        self._said = [""]  # the text of each turn; one ends with the results of its tools
        self._gap = False  # what is said next begins a new turn, after one that said something

    async def run(self, message: str | ClaudeInput) -> str:
        request = await self._request(message)
        messages = request["messages"]
        for number in range(1, self._template.max_calls + 1):
            answer = await self._turn(number, request)
            self._count(answer)
            self._said[-1] += answer.text
            if answer.stop_reason == "refusal":
                raise Rejected(f"The model refuses to answer{f': {answer.explanation}' if answer.explanation else '.'}")
            if not answer.goes_on:
                if any(block["type"] == "tool_use" for block in answer.content):
                    raise Rejected(f"The model's answer ended in the middle of a tool call: {answer.stop_reason}.")
                return next((said for said in reversed(self._said) if said.strip()), "")
            if messages[-1]["role"] == "assistant":  # it was paused, and goes on
                messages[-1]["content"] += answer.turn
            else:
                messages.append({"role": "assistant", "content": answer.turn})
            if answer.calls:
                messages.append({"role": "user", "content": await self._results(number, answer.calls)})
                self._gap = self._gap or bool(self._said[-1].strip())
                self._said.append("")
        raise Rejected(f"The model was called {self._template.max_calls} times for this message, and is not done.")

    async def _request(self, message: str | ClaudeInput) -> dict[str, Any]:
        """What the model is asked at first."""
        template, context = self._template, self._context
        asked = message if isinstance(message, str) else _checked(message.content)
        max_tokens, system = _max_tokens(context, template), _system(context, template)
        request: dict[str, Any] = {"model": template.model or self._api.model, "max_tokens": max_tokens}
        if system:
            request["system"] = system
        if template.toolbox.definitions:
            request["tools"] = template.toolbox.definitions
        if template.thinking:
            request["thinking"] = template.thinking
        if template.options:
            request["extra_body"] = template.options
        conversation = await _conversation(context, template, system)
        return request | {"messages": [*conversation, {"role": "user", "content": asked}]}

    async def _turn(self, number: int, request: dict[str, Any]) -> Answer:
        """The model's next answer. One that asks for more is a step, and a later attempt is told it from there."""
        told = False

        async def ask() -> Answer:
            nonlocal told
            told = True
            answer = await self._api.ask(request, self._tell)
            if not answer.goes_on:
                raise _Final(answer)
            return answer

        try:
            answer: Answer = await self._context.step(f"turn {number}", ask)
        except _Final as final:
            return final.answer
        if not told:
            for block in answer.content:
                if block["type"] in {"text", "thinking"}:
                    await self._tell(block["type"], block[block["type"]])
        return answer

    async def _tell(self, kind: str, said: str) -> None:
        """Stream what the model says or thinks; a blank line separates the texts of two exchanges."""
        if kind == "thinking" and said:
            await tell(self._context, "thinking", content=said)
        elif said:
            await self._context.emit(f"\n\n{said}" if self._gap else said)
            self._gap = False

    async def _results(self, number: int, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Call the tools of a turn side by side. What one of them raises ends the attempt when the others are done, so
        that a later one need not call these again."""
        for call in calls:
            await tell(self._context, "tool", **plain(ToolCall(call["id"], call["name"], call["input"])))
        steps = [f"tool {number}.{place} {call['name'][:MAX_STEP_TOOL_CHARS]}" for place, call in enumerate(calls, 1)]
        done = await asyncio.gather(*map(self._result, steps, calls), return_exceptions=True)
        errors = [result for result in done if isinstance(result, BaseException)]
        if errors:
            raise next((error for error in errors if isinstance(error, Rejected)), errors[0])
        return [result for result in done if not isinstance(result, BaseException)]

    async def _result(self, step: str, call: dict[str, Any]) -> dict[str, Any]:
        async def run() -> Output:
            return await self._template.toolbox.call(self._context, step, call["name"], call["input"])

        came: Output = await self._context.step(step, run)
        await tell(
            self._context, "tool", **plain(ToolResult(call["id"], call["name"], came.output, failed=came.failed))
        )
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": came.text}
        return {**result, "is_error": True} if came.failed else result

    def _count(self, answer: Answer) -> None:
        """Usage so far: of every call of the model for this message whose answer is known."""
        self._usage.update(answer.usage)
        cost = {"cost_usd": self._template.price.of(self._usage)} if self._template.price else {}
        self._context.usage(model=answer.model, stop_reason=answer.stop_reason, **self._usage, **cost)


def _price(price: Mapping[str, float] | None) -> Price | None:
    try:
        return None if price is None else msgspec.convert(dict(price), Price)
    except msgspec.ValidationError as error:
        raise ValueError(f"the price does not fit: {error}") from None


def _checked(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Raises Rejected where there is something else than content blocks."""
    if not isinstance(content, str):
        for number, block in enumerate(content):
            if not isinstance(block.get("type"), str):
                raise Rejected(f"The message's content[{number}] is no content block: it has no type.")
    return content


def _max_tokens(context: Context, template: Template) -> int:
    value = context.metadata.get("max_tokens", template.max_tokens)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Rejected("metadata.max_tokens must be a whole number above 0.")
    budget = (template.thinking or {}).get("budget_tokens", 0)
    if value <= budget:
        raise Rejected(f"metadata.max_tokens must be above the {budget} tokens that the model may think.")
    return value


def _system(context: Context, template: Template) -> str:
    value = context.metadata.get("system")
    if value is not None and not isinstance(value, str):
        raise Rejected("metadata.system must be a text.")
    return "\n\n".join(part for part in (template.system, value) if part)


async def _conversation(context: Context, template: Template, system: str) -> list[dict[str, Any]]:
    """The thread so far: exchanges of user and assistant. Those of other agents that are no talk are left out."""
    if template.history_tokens is None:
        exchanges = await context.history(template.history) if template.history else []
    else:
        exchanges = await context.history(template.history, max_tokens=template.history_tokens, system=system)
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        asked = _content(exchange.message)
        # The API takes no empty exchanges, and alternating ones only.
        if asked and isinstance(exchange.result, str) and (answered := exchange.result.rstrip()):
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return messages


def _content(message: Any) -> str | list[dict[str, Any]] | None:
    """What an earlier message asked Claude, or could have; None where that is nothing."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, str):
        return content if content.strip() else None
    if isinstance(content, list) and all(isinstance(b, dict) and isinstance(b.get("type"), str) for b in content):
        return content or None
    return None
