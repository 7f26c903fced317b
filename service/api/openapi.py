"""The API's description of itself: OpenAPI, shown by Swagger UI at /docs and ReDoc at /redoc."""

from typing import Any

from litestar import Litestar, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import RedocRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Reference, Schema

from service.api.problems import MEDIA_TYPE

UNKNOWN = "/{path:str}"

PROBLEM = Schema(
    title="Problem",
    type=OpenAPIType.OBJECT,
    properties={
        "type": Schema(type=OpenAPIType.STRING),
        "title": Schema(type=OpenAPIType.STRING),
        "status": Schema(type=OpenAPIType.INTEGER),
        "detail": Schema(type=OpenAPIType.STRING, description="What is wrong, in one sentence."),
    },
    required=["type", "title", "status", "detail"],
)
REFUSED = OpenAPIResponse(
    description="Refused, with nothing written, or failed (RFC 9457). Retry-After says when trying again may help.",
    content={MEDIA_TYPE: OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))},
)


class _Pages(Router):
    """Litestar answers unknown paths beside its pages with one of HTML; at the root those are everybody's."""

    def register(self, value: Any) -> list[Any]:
        return [] if UNKNOWN in getattr(value, "paths", ()) else super().register(value)


def config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Treadle",
        version="1",
        description="A durable queue service for AI agents.",
        openapi_router=_Pages("/", route_handlers=[], include_in_schema=False, dto=None),
        render_plugins=[SwaggerRenderPlugin(path="/docs"), RedocRenderPlugin(path="/redoc")],
    )


def describe_problems(app: Litestar) -> None:
    """Any operation may answer with a problem: say so of each, in place of the errors that Litestar would send."""
    app.openapi_schema.components.schemas["Problem"] = PROBLEM
    for path in (app.openapi_schema.paths or {}).values():
        for operation in (path.get, path.post, path.delete):
            if operation is not None and operation.responses is not None:
                operation.responses.pop("400", None)
                operation.responses["default"] = REFUSED
