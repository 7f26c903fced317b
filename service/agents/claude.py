"""Claude, through the Anthropic SDK: the thread's history as the conversation, tokens as they come, usage stored.

metadata.system sets the system prompt, metadata.max_tokens the longest answer. The SDK's own retries are off: the queue
retries, and a Retry-After of the API is obeyed.
"""

from typing import Any

from service.agents.contract import Agent, Context, Rejected
from service.agents.verdict import verdict

NAME = "claude"
MAX_TOKENS = 4096
HISTORY = 50  # messages of the thread


def make(api_key: str | None, base_url: str | None, model: str) -> Agent:
    """The agent `claude`; without a key it rejects what it is asked."""
    if not api_key:
        return Agent(NAME, _without_key, description=_claude_doc)
    import anthropic  # takes a second, and only those with a key need it

    client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, max_retries=0)

    async def claude(context: Context, text: str) -> str:
        whole = False
        try:
            async with client.messages.stream(
                model=model,
                max_tokens=_max_tokens(context),
                messages=await _conversation(context, text),
                system=_system(context) or anthropic.omit,
            ) as stream:
                async for event in stream:
                    if event.type == "text":
                        await context.emit(event.text)
                    whole = whole or event.type == "message_stop"
                if not whole:
                    # The connection ended early but cleanly: the SDK raises nothing, yet this is no answer.
                    raise ConnectionError("The stream ended before the answer did.")
                answer = await stream.get_final_message()
        except anthropic.APIStatusError as error:
            raise _verdict(error) from error
        except anthropic.APIConnectionError as error:
            reason = str(error.__cause__ or error).rstrip(".")
            raise ConnectionError(f"The Anthropic API cannot be reached: {reason}.") from error
        context.usage(model=answer.model, stop_reason=answer.stop_reason, **answer.usage.model_dump(exclude_none=True))
        return "".join(block.text for block in answer.content if block.type == "text")

    return Agent(NAME, claude, description=_claude_doc)


_claude_doc = "Answers with Claude, the thread's history as the conversation."


async def _without_key(context: Context, text: str) -> str:
    raise Rejected("The agent claude needs ANTHROPIC_API_KEY, which this worker does not have.")


def _verdict(error: Any) -> Exception:
    """What an error of the API means for the message: later, by backoff, or never."""
    said = (error.api_message or error.message).rstrip(".")
    if error.status_code < 400:  # an error event in the middle of a stream
        return ConnectionError(f"The Anthropic API broke off its answer: {said}.")
    return verdict(
        error.status_code, error.response.headers, f"The Anthropic API answered {error.status_code}: {said}."
    )


def _max_tokens(context: Context) -> int:
    value = context.metadata.get("max_tokens", MAX_TOKENS)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Rejected("metadata.max_tokens must be a whole number above 0.")
    return value


def _system(context: Context) -> str | None:
    value = context.metadata.get("system")
    if value is not None and not isinstance(value, str):
        raise Rejected("metadata.system must be a text.")
    return value


async def _conversation(context: Context, text: str) -> list[Any]:
    turns: list[Any] = []
    for turn in await context.history(HISTORY):
        # The API takes no empty turns, and alternating ones only.
        if (
            isinstance(turn.message, str)
            and isinstance(turn.result, str)
            and turn.message.strip()
            and turn.result.strip()
        ):
            turns += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": turn.result.rstrip()}]
    return [*turns, {"role": "user", "content": text}]
