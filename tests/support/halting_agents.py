"""An agent that worker processes import: it halts in the middle until a test opens a gate."""

import re

from tests.support.gates import until_open
from treadle import Context, agent

HALTING = "halting"


@agent(HALTING)
async def halting(context: Context, text: str) -> str:
    """Says the text word by word. The first attempt waits in the middle at the gate `metadata.gate`, if any."""
    words = re.findall(r"\s*\S+", text)
    for number, word in enumerate(words):
        if number == len(words) // 2 and context.attempt == 1 and "gate" in context.metadata:
            await until_open(context.metadata["gate"])
        await context.emit(word)
    return text
