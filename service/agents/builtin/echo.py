"""The agent for demonstrations and tests: it streams its input back word by word.

`metadata.delay_ms` is a pause before each word. `metadata.fail_times` makes that many attempts fail first; each is
retried after 0.2 seconds.
"""

import asyncio
import re

from service.agents.contract import Context, Rejected, RetryAfter
from service.agents.definition import agent

RETRY_SECONDS = 0.2


@agent("echo")
async def echo(context: Context, text: str) -> str:
    """Streams its input back word by word."""
    delay_ms = _number(context, "delay_ms")
    if context.attempt <= _number(context, "fail_times"):
        raise RetryAfter(RETRY_SECONDS, f"Failing attempt {context.attempt}, as metadata.fail_times asks.")
    for word in re.findall(r"\s*\S+|\s+$", text):
        if delay_ms:
            await asyncio.sleep(delay_ms / 1000)
        await context.emit(word)
    return text


def _number(context: Context, name: str) -> float:
    value = context.metadata.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Rejected(f"metadata.{name} must be a number, 0 or more.")
    return value
