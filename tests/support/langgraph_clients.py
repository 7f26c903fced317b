"""The unmodified client of LangGraph's API, and what it reads."""

from typing import Any

from langgraph_sdk import get_client

from tests.support.api_client import Client

HI = {"messages": [{"type": "human", "content": "one two", "id": "m1"}]}


def connect(api: Client, key: str | None = None) -> Any:
    return get_client(url=f"{api.base_url}/langgraph", api_key=key)


def contents(values: Any) -> list[tuple[str, Any]]:
    return [(message["type"], message["content"]) for message in values["messages"]]


async def stream(
    client: Any, thread: str, agent: str, *, cancels: bool = False, text: str = "go", metadata: Any = None
) -> dict[str, Any]:
    """As tests/support/node/langgraph.mjs does it."""
    seen, run = [], ""
    modes = ["values", "messages-tuple"]
    given = {"input": text, "metadata": metadata, "stream_mode": modes, "if_not_exists": "create"}
    async for part in client.runs.stream(thread, agent, **given):
        seen.append([part.event, part.id])
        run = part.data["run_id"] if part.event == "metadata" else run
        if part.event == "messages" and cancels:
            cancels = False
            await client.runs.cancel(thread, run)
    again = [[part.event, part.id] async for part in client.runs.join_stream(thread, run, last_event_id="-1")]
    texts = [said for _, said in contents((await client.threads.get_state(thread))["values"])]
    status = (await client.runs.get(thread, run))["status"]
    return {"seen": seen, "again": again, "texts": texts, "status": status}
