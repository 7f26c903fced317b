"""An agent that says and does what clients of AG-UI and A2A show: each message names a scene."""

import asyncio

from treadle import Agent, Context, Rejected, agent


def scene_agent() -> Agent:
    @agent("scene", max_attempts=2, max_losses=3, client_state=["x", "y", "z"])
    async def scene(context: Context, text: str) -> object:
        """Plays a scene."""
        if text in SCENES:
            return await SCENES[text](context)
        if text == "ask":
            await context.emit("Let me see. ")
            return f"In {await context.input('Which unit?')}."
        if text == "weather":
            await context.emit("I look. ")
            calls = [{"name": "get_weather", "arguments": {"city": city}} for city in ("Rome", "Oslo")]
            return f"It is {' and '.join(await context.input({'function_calls': calls}))}."
        if text == "retry":
            await context.emit("right" if context.attempt > 1 else "wrong")
            if context.attempt == 1:
                raise RuntimeError("The first attempt fails.")
            return "right"
        if text == "object":
            return {"answer": 42}
        if text == "history":
            return [[exchange.message, exchange.result] for exchange in await context.history()]
        if text == "hold":
            await context.emit("I hold. ")
            await asyncio.Event().wait()
        raise Rejected(f"No {text}.")

    return scene


async def _all(context: Context) -> str:
    await context.event("thinking", {"content": "What does it need?"})
    await context.event("progress", {"stage": "look"})
    await context.emit("I look. ")
    await context.event("tool", {"id": "t1", "name": "look", "input": {"at": "sky"}})
    await context.event("tool", {"id": "t1", "name": "look", "output": "blue"})
    sky = await context.step("sky", lambda: "blue")
    context.memory.setdefault("seen", {})[str(len(context.memory.get("seen", {})))] = sky
    await context.emit("It is blue.")
    return "It is blue."


async def _two(context: Context) -> list[object]:
    return [await context.input("First?"), await context.input("Second?")]


SCENES = {"all": _all, "two": _two}
