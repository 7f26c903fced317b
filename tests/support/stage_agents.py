"""The agents of tests/support/stage.py, as its worker processes import them."""

import os
from pathlib import Path

from tests.support.gates import until_open
from tests.support.openai_agents import openai_agents
from treadle import Context, agent

GATES = "STAGE_GATES"  # a folder: the gate of a scene's name lets the scene go on

recall, weather, structured = openai_agents()


@agent("stage", max_losses=2)
async def stage(context: Context, text: str) -> str:
    """Says one two. The first attempt stops in the middle until the gate of its scene opens: the last word of the
    text."""
    await context.emit("one ")
    scene = text.rsplit(maxsplit=1)[-1]
    if context.attempt == 1 and scene != "plain":
        await until_open(str(Path(os.environ[GATES]) / scene))
    await context.emit("two")
    return "one two"


@agent("seen")
async def seen(context: Context, text: str) -> None:
    """A program of Node submits the text, and tells so that its stream has begun."""


@agent("tourist")
async def tourist(context: Context, city: str) -> str:
    """Asks its client for the weather."""
    [sky] = await context.input({"function_calls": [{"name": "get_weather", "arguments": {"city": city}}]})
    return f"{sky} in {city}"
