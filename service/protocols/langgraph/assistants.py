"""/ok, /info and /assistants, the agents that the caller may address; and crons, which this server refuses."""

from typing import Any

from litestar.params import FromPath, JSONBody

from service.access.principal import OPEN_SCOPE, Principal
from service.protocols.langgraph.answers import assistant, schemas
from service.protocols.langgraph.calls import Caller, Services, delete, get, page, patch, post
from service.protocols.langgraph.errors import NotServed
from service.protocols.langgraph.model import AssistantSearch, Json
from service.protocols.langgraph.services import LangGraphServices

VERSION = "0.1.0"


@get("/ok", scope=OPEN_SCOPE)
async def ok() -> Json:
    return {"ok": True}


@get("/info", scope=OPEN_SCOPE)
async def info() -> Json:
    flags = {"assistants": True, "crons": False, "langsmith": False}
    return {"version": VERSION, "langgraph_py_version": None, "flags": flags, "metadata": {}}


@post("/assistants/search", scope="read")
async def search_assistants(data: JSONBody[AssistantSearch], principal: Caller, langgraph: Services) -> list[Json]:
    found = await _matching(langgraph, principal, data)
    key = data.sort_by or "name"
    found.sort(key=lambda item: item[key], reverse=data.sort_order == "desc")
    offset = data.offset or 0
    return page(found[offset : offset + (data.limit or 10)], data.select)


@post("/assistants/count", scope="read")
async def count_assistants(data: JSONBody[AssistantSearch], principal: Caller, langgraph: Services) -> int:
    return len(await _matching(langgraph, principal, data))


@get("/assistants/{assistant_id:str}", scope="read")
async def get_assistant(assistant_id: FromPath[str], principal: Caller, langgraph: Services) -> Json:
    return assistant(await langgraph.agent(principal, assistant_id))


@get("/assistants/{assistant_id:str}/schemas", scope="read")
async def get_schemas(assistant_id: FromPath[str], principal: Caller, langgraph: Services) -> Json:
    return schemas(await langgraph.agent(principal, assistant_id))


@post(["/runs/crons", "/runs/crons/search", "/runs/crons/count"], scope="submit")
async def crons() -> Any:
    raise NotServed(NO_CRONS)


@delete("/runs/crons/{cron_id:str}", scope="submit", status_code=200)
async def delete_cron(cron_id: FromPath[str]) -> Any:
    raise NotServed(NO_CRONS)


@patch("/runs/crons/{cron_id:str}", scope="submit")
async def change_cron(cron_id: FromPath[str]) -> Any:
    raise NotServed(NO_CRONS)


@post("/threads/{thread_id:str}/runs/crons", scope="submit")
async def thread_crons(thread_id: FromPath[str]) -> Any:
    raise NotServed(NO_CRONS)


NO_CRONS = "Crons are not supported yet: let a scheduler of yours create the runs, or use after_seconds."
HANDLERS = [
    *(ok, info, search_assistants, count_assistants, get_assistant, get_schemas),
    *(crons, delete_cron, change_cron, thread_crons),
]


async def _matching(langgraph: LangGraphServices, principal: Principal, wanted: AssistantSearch) -> list[Json]:
    found = [assistant(agent) for agent in await langgraph.queues.agents(principal)]
    return [
        item
        for item in found
        if wanted.graph_id in (None, item["graph_id"])
        and (wanted.name or "").lower() in item["name"].lower()
        and (wanted.metadata or {}).items() <= item["metadata"].items()
    ]
