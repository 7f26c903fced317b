"""Models and tools for agents of Pydantic AI and of the Agents SDK: they say what a script tells them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import Model
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseTextDeltaEvent,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel


class Script:
    """What a model says in turn: a text, (tool, arguments), a list of these (SdkModel only) or an exception. `asked`
    has what it received."""

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.asked: list[Any] = []
        self.hangs = asyncio.Event()
        self.ended = asyncio.Event()

    async def next(self, asked: Any) -> Any:
        self.asked.append(asked)
        say = self.says.pop(0)
        if say == "hang":
            self.hangs.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        if isinstance(say, Exception):
            raise say
        return say


def pydantic_model(script: Script) -> FunctionModel:
    async def stream(messages: Any, info: AgentInfo) -> AsyncIterator[Any]:
        say = await script.next(messages)
        if isinstance(say, tuple):
            yield {0: DeltaToolCall(name=say[0], json_args=say[1], tool_call_id=f"c{len(script.asked)}")}
        else:
            for word in say.split(" "):
                yield f"{word} "

    return FunctionModel(stream_function=stream)


class SdkModel(Model):
    """A model of the Agents SDK that follows a script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def stream_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
        say = await self._script.next([system_instructions, input])
        number = len(self._script.asked)
        items: list[Any] = []
        if not isinstance(say, str):
            for index, (name, given) in enumerate(say if isinstance(say, list) else [say]):
                id = f"{number}" + "abc"[index - 1] * bool(index)
                call = {"id": f"f{id}", "call_id": f"c{id}", "name": name, "arguments": given}
                items.append(ResponseFunctionToolCall.model_validate({**call, "type": "function_call"}))
        else:
            for word in say.split(" "):
                yield ResponseTextDeltaEvent.model_construct(type="response.output_text.delta", delta=f"{word} ")
            part = {"type": "output_text", "text": say, "annotations": []}
            said = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
            items.append(ResponseOutputMessage.model_validate(said))
        usage = {
            "input_tokens": 3,
            "output_tokens": 4,
            "total_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        response = Response.model_validate(
            {
                "id": "r",
                "created_at": 1,
                "model": "sdk-test",
                "object": "response",
                "output": [item.model_dump() for item in items],
            }
            | {"parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "usage": usage}
        )
        yield ResponseCompletedEvent(type="response.completed", sequence_number=1, response=response)


class Tools:
    """Two tools that note their calls; `buy` needs an approval."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def lookup(self, word: str) -> str:
        self.calls.append(f"lookup {word}")
        return f"{word} is blue"

    async def buy(self, what: str) -> str:
        self.calls.append(f"buy {what}")
        return f"{what} is bought"
