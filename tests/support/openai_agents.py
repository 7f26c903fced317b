"""Agents that the clients of OpenAI's APIs ask in tests."""

import msgspec

from treadle import Agent, Context, agent


def openai_agents() -> list[Agent]:
    @agent("recall")
    async def recall(context: Context, text: str) -> str:
        """Says what it knows of the conversation, as JSON."""
        history = [[exchange.message, exchange.result] for exchange in await context.history()]
        context.usage(input_tokens=3, output_tokens=2, cache_read_input_tokens=1)
        return msgspec.json.encode([history, context.metadata.get("system"), text]).decode()

    @agent("weather")
    async def weather(context: Context, text: str) -> str:
        """Asks its client for the weather of each city, and then for the unit."""
        await context.emit("Let me see. ")
        calls = [{"name": "get_weather", "arguments": {"city": city}} for city in text.split()]
        found = await context.input({"function_calls": calls})
        unit = await context.input("Which unit?")
        return f"{', '.join(found)} in {unit}"

    @agent("structured")
    async def structured(context: Context, text: str) -> dict[str, object]:
        """Answers with an object, after it has said something else."""
        await context.emit("Thinking.")
        kept = context.metadata["openai"]
        return {"text": text, "schema": kept["text"]["format"]["name"]}

    return [recall, weather, structured]
