"""/langgraph: the API of a LangGraph server."""

from litestar import Router

from service.protocols.langgraph import assistants, items, runs, threads
from service.protocols.langgraph.errors import HANDLERS

router = Router(
    "/langgraph",
    route_handlers=[*assistants.HANDLERS, *threads.HANDLERS, *runs.HANDLERS, *items.HANDLERS],
    exception_handlers=HANDLERS,
    include_in_schema=False,
)
