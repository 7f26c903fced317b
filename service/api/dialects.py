"""The shape of a refusal that no route makes: clients of a dialect read only its own."""

from collections.abc import Callable

from service.protocols.a2a import errors as a2a
from service.protocols.langgraph import errors as langgraph_api
from service.protocols.openai import errors as openai_api
from service.protocols.schema_registry import errors as schema_registry
from service.refusals import MEDIA_TYPE, Plain, Problem

SHAPES: dict[str, Callable[[int, str], Plain]] = {
    "/v1": openai_api.plain,
    "/langgraph": langgraph_api.plain,
    "/a2a": a2a.plain,
    "/schema-registry": schema_registry.plain,
}


def shape(path: str, status: int, title: str, detail: str) -> Plain:
    """`path` is that of the request."""
    first = "/" + path.lstrip("/").partition("/")[0]
    if (of_dialect := SHAPES.get(first)) is not None:
        return of_dialect(status, detail)
    return Plain(Problem(title, status, detail), MEDIA_TYPE)
