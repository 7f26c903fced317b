"""Threads as resources: `treadle://threads/<thread_id>` is the JSON of the last messages of a thread."""

from typing import Any
from urllib.parse import quote, unquote

import msgspec

from service.access.principal import Principal
from service.cursors import format_position, parse_position
from service.errors import NotFound
from service.limits import PAGE_ITEMS
from service.protocols.mcp.model import INVALID_PARAMS, NO_RESOURCE, CallRefused
from service.protocols.mcp.services import McpServices

PREFIX = "treadle://threads/"
JSON = "application/json"
TEMPLATES = [
    {
        "uriTemplate": PREFIX + "{thread_id}",
        "name": "thread",
        "description": f"The last {PAGE_ITEMS} messages of a thread, with their results.",
        "mimeType": JSON,
    }
]


async def list_resources(services: McpServices, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
    """The threads, the last active first. Raises Invalid for an unknown cursor."""
    cursor = params.get("cursor")
    before = parse_position(cursor) if isinstance(cursor, str) else None
    page, following = await services.threads.page(principal, PAGE_ITEMS, before)
    resources = [
        {
            "uri": PREFIX + quote(thread.thread_id, safe=""),
            "name": thread.thread_id,
            "description": thread.last_message_preview or "",
            "mimeType": JSON,
        }
        for thread in page
    ]
    return {"resources": resources} | ({} if following is None else {"nextCursor": format_position(following)})


async def read_resource(services: McpServices, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
    """Raises CallRefused."""
    uri = params.get("uri")
    if not isinstance(uri, str):
        raise CallRefused(INVALID_PARAMS, "uri must be a text.")
    try:
        if not uri.startswith(PREFIX):
            raise NotFound(uri)
        thread, _ = await services.threads.key(principal, unquote(uri.removeprefix(PREFIX)))
    except NotFound:
        raise CallRefused(NO_RESOURCE, f"There is no resource {uri[:300]!r}.") from None
    newest, _ = await services.messages.of_thread(thread, None, PAGE_ITEMS, newest_first=True)
    text = msgspec.json.encode(newest[::-1]).decode()
    return {"contents": [{"uri": uri, "mimeType": JSON, "text": text}]}
