"""Query parameters that a route does not know are refused, as unknown fields of a body are."""

from typing import Any

from litestar import Litestar, Request

from service.errors import Unprocessable

MAX_QUOTED_CHARS = 100

Names = dict[tuple[str, str], frozenset[str]]
"""The names of the query parameters by the path and the method of each described route."""


class KnownQueries:
    """Called before each request. Pages and their files, which OpenAPI does not describe, take any parameter."""

    def __init__(self) -> None:
        self._names: Names | None = None

    async def __call__(self, request: Request[Any, Any, Any]) -> None:
        """Raises Unprocessable."""
        if not request.scope["query_string"]:
            return
        if self._names is None:  # at the first such request: to describe all routes takes a while
            self._names = _names_of(request.app)
        known = self._names.get((request.scope["path_template"], request.method))
        if known is None:
            return
        seen = set()
        for name, _ in request.query_params.multi_items():
            if name not in known and not (name == "token" and request.route_handler.opt.get("is_stream")):
                raise Unprocessable(f"{name[:MAX_QUOTED_CHARS]!r} is not a known query parameter; remove it.")
            if name in seen:
                raise Unprocessable(f"{name} is given more than once; send it once.")
            seen.add(name)


def _names_of(app: Litestar) -> Names:
    found: Names = {}
    for path, item in (app.openapi_schema.paths or {}).items():
        for method in ("get", "post", "put", "patch", "delete"):
            if (operation := getattr(item, method)) is not None:
                declared = operation.parameters or []
                names = frozenset(parameter.name for parameter in declared if parameter.param_in == "query")
                found[path, method.upper()] = names
    return found
