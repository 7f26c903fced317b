"""The unmodified client of LangGraph's API, and what it reads."""

from typing import Any

from langgraph_sdk import get_client

from tests.support.api_client import Client

HI = {"messages": [{"type": "human", "content": "one two", "id": "m1"}]}


def connect(api: Client, key: str | None = None) -> Any:
    return get_client(url=f"{api.base_url}/langgraph", api_key=key)


def contents(values: Any) -> list[tuple[str, Any]]:
    return [(message["type"], message["content"]) for message in values["messages"]]
