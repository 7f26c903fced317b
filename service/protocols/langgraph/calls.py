"""What the modules of handlers share."""

import functools
from collections.abc import AsyncIterator, Collection
from typing import Any, TypeAlias

import litestar
from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.response import Stream

from service.access.principal import Principal
from service.errors import ForeignPage, Unprocessable
from service.limits import MAX_PAGE_ITEMS
from service.protocols.langgraph.find import Found
from service.protocols.langgraph.model import Json
from service.protocols.langgraph.services import LangGraphServices
from service.streams import json_stream, sse

Caller: TypeAlias = NamedDependency[Principal]
Services: TypeAlias = NamedDependency[LangGraphServices]
Answer: TypeAlias = Response[Any]
Asked: TypeAlias = Request[Any, Any, Any]

OWN_SITES = ("same-origin", "none")  # none: a person typed the address, or no browser asks

get = functools.partial(litestar.get, takes_api_key=True)
post = functools.partial(litestar.post, status_code=200, takes_api_key=True)
put = functools.partial(litestar.put, status_code=204, takes_api_key=True)
patch = functools.partial(litestar.patch, takes_api_key=True)
delete = functools.partial(litestar.delete, status_code=204, takes_api_key=True)


def place_of(found: Found) -> str:
    """The path of a run from the root of the dialect: the SDKs add it to the address of the API."""
    return f"/threads/{found.thread_id}/runs/{found.run_id}"


def run_stream(parts: AsyncIterator[bytes], found: Found) -> Stream:
    place = place_of(found)
    return sse(parts, {"Location": f"{place}/stream", "Content-Location": place})


def run_values(parts: AsyncIterator[bytes], found: Found) -> Stream:
    """The values of the run, once it is over."""
    place = place_of(found)
    return json_stream(parts, {"Location": f"{place}/join", "Content-Location": place})


def flag(request: Asked, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("1", "true")


def refuse_link(request: Asked) -> None:
    """Raises ForeignPage where a link of another site leads here. The gate (service.api.gate) lets such links read,
    because the site learns nothing; they must not change state."""
    if "origin" not in request.headers and request.headers.get("sec-fetch-site", "none") not in OWN_SITES:
        raise ForeignPage("A page of another origin may not change anything here: add that origin to CORS_ORIGINS.")


def number(request: Asked, name: str, default: int, *, least: int, most: int = MAX_PAGE_ITEMS) -> int:
    """A query parameter. Raises Unprocessable."""
    text = request.query_params.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and least <= int(text) <= most):
        raise Unprocessable(f"{name} must be a whole number from {least} to {most}.")
    return int(text)


def page(items: list[Json], select: Collection[str] | None) -> list[Json]:
    """The items with the fields that the client wants."""
    if not select:
        return items
    return [{name: value for name, value in item.items() if name in select} for item in items]
