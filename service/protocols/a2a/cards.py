"""Agent cards: what a client of the protocol reads first."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Request, Response

from service.access.authenticator import bearer, require
from service.inputs.validator import compile_schema
from service.protocols.a2a.errors import AgentNotFound, ExtendedCardNotConfigured
from service.protocols.a2a.model import VERSION, Json
from service.protocols.a2a.services import A2AServices, Caller
from service.queues.model import Agent

MAX_AGE_SECONDS = 60
TEXT, JSON, FILES = "text/plain", "application/json", ("image/png", "image/jpeg", "application/pdf")
WITH_FILE = {"content": [{"type": "document", "source": {"type": "url", "url": "https://example.com"}}]}
OUTPUT_MODES = [TEXT, JSON]
DESCRIPTION = "A durable queue of messages for agents: their work goes on when connections break and servers restart."
HIDDEN: Json = {
    "id": "message",
    "name": "message",
    "description": "Sends a message to an agent. The extended card lists the agents.",
    "tags": ["agent"],
    "inputModes": [TEXT, JSON],
}


async def public_card(services: A2AServices, request: Request[Any, Any, Any]) -> Json:
    """The card for a client that may have no key yet: without one it names no agent. Raises Unauthorized, Forbidden."""
    header = request.headers.get("authorization")
    if services.access.required and header is None:
        return _card(request, None, [HIDDEN], secured=True)
    principal = await services.access.identify(bearer(header or ""))
    return await card_for(services, request, Caller(principal, None))


async def extended_card(services: A2AServices, request: Request[Any, Any, Any], caller: Caller) -> Json:
    """Raises ExtendedCardNotConfigured, Forbidden."""
    if not services.access.required:
        raise ExtendedCardNotConfigured("The card of the agent says everything.")
    return await card_for(services, request, caller)


async def card_for(services: A2AServices, request: Request[Any, Any, Any], caller: Caller) -> Json:
    """Raises AgentNotFound for one that the caller may not address, Forbidden."""
    require(caller.principal, "read")
    agents = await services.queues.agents(caller.principal)
    if caller.agent is not None:
        agents = [agent for agent in agents if agent.agent == caller.agent]
        if not agents:
            raise AgentNotFound(f"There is no agent {caller.agent[:100]!r}.")
    return _card(request, caller.agent, _skills(agents), secured=services.access.required)


def answer(request: Request[Any, Any, Any], card: Json) -> Response[Any]:
    """304 where the client has this card."""
    body = msgspec.json.encode(card)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": f"private, max-age={MAX_AGE_SECONDS}", "Vary": "Authorization"}
    known = [text.strip().removeprefix("W/") for text in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(None, status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _skills(agents: Sequence[Agent]) -> list[Json]:
    return [
        {
            "id": agent.agent,
            "name": agent.agent,
            "description": agent.description or agent.agent,
            "tags": ["agent"],
            "inputModes": _input_modes(agent),
        }
        for agent in agents
    ]


def _input_modes(agent: Agent) -> list[str]:
    """Files only for an agent that takes them as content blocks."""
    if agent.input is None:
        return [TEXT]
    validator = compile_schema(agent.agent, msgspec.json.encode(agent.input).decode())
    if validator is None:
        return [JSON]
    texts = [TEXT] if validator.misfit("text") is None else []
    return [*texts, JSON, *(FILES if validator.misfit(WITH_FILE) is None else ())]


def _card(request: Request[Any, Any, Any], agent: str | None, skills: list[Json], *, secured: bool) -> Json:
    base = f"{str(request.base_url).rstrip('/')}/a2a" + (f"/{quote(agent, safe='')}" if agent else "")
    card: Json = {
        "name": agent or "Treadle",
        "description": skills[0]["description"] if agent else DESCRIPTION,
        "version": version("treadle"),
        "supportedInterfaces": [
            {"url": base, "protocolBinding": binding, "protocolVersion": VERSION}
            for binding in ("JSONRPC", "HTTP+JSON")
        ],
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": secured},
        "defaultInputModes": [mode for mode in (TEXT, JSON, *FILES) if any(mode in s["inputModes"] for s in skills)],
        "defaultOutputModes": OUTPUT_MODES,
        "skills": skills,
    }
    if secured:
        card["securitySchemes"] = {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}}
        card["securityRequirements"] = [{"schemes": {"bearer": {"list": []}}}]
    return card
