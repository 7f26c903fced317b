"""The API's description: OpenAPI at /openapi.json, shown by Swagger UI at /docs and by ReDoc at /redoc.

The scripts of both pages are files of the package fastapi-offline, so that the pages work without Internet and run no
code from another host.
"""

import importlib.util
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, Router, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Reference, Schema
from litestar.params import FromPath

from service.api.problems import MEDIA_TYPE
from service.errors import ConfigError
from service.static_files import StaticFiles

LITESTAR_NOT_FOUND_PATH = "/{path:str}"
REDOC_LOGO_URL = b"https://cdn.redoc.ly/redoc/logo-mini.svg"  # below the menu of every ReDoc page

PROBLEM_SCHEMA = Schema(
    title="Problem",
    type=OpenAPIType.OBJECT,
    properties={
        "type": Schema(type=OpenAPIType.STRING),
        "title": Schema(type=OpenAPIType.STRING),
        "status": Schema(type=OpenAPIType.INTEGER),
        "detail": Schema(type=OpenAPIType.STRING, description="One sentence: the problem, and what the client can do."),
    },
    required=["type", "title", "status", "detail"],
)
PROBLEM_RESPONSE = OpenAPIResponse(
    description="A problem (RFC 9457). With a status of 4xx nothing was written. The Retry-After header, where present,"
    " says after how many seconds the client may repeat the request.",
    content={MEDIA_TYPE: OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))},
)


def find_assets() -> list[Path]:
    """The scripts and styles of Swagger UI and ReDoc; the code of their package is not imported.

    Raises ConfigError if the package is not installed.
    """
    package = importlib.util.find_spec("fastapi_offline")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("The package fastapi-offline is not installed: run pip install fastapi-offline.")
    return list(Path(package.submodule_search_locations[0], "static").iterdir())


REFERENCE_FILES = StaticFiles(
    [*Path(__file__).with_name("static").iterdir(), *find_assets()],
    # Swagger UI and ReDoc write styles into the page, and ReDoc searches in a worker that it makes from a blob.
    content_security_policy="default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    cache_control="public, max-age=3600",
    blanked_urls=[REDOC_LOGO_URL],
)


class _ReferencePage(OpenAPIRenderPlugin):
    """A page that loads /openapi.json by itself."""

    def __init__(self, *paths: str, name: str) -> None:
        super().__init__(path=paths)
        self._page = Path(__file__).with_name("static").joinpath(name).read_text(encoding="utf-8")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        path = request.scope["raw_path"]
        root = "../" if len(path) > 1 and path.endswith(b"/") else ""  # the links of the page are relative
        return self._page.replace("{root}", root).encode()


@get("/docs/{name:str}")
async def reference_file(name: FromPath[str]) -> Response[bytes]:
    return REFERENCE_FILES.response(name)


class _ReferenceRouter(Router):
    """Litestar adds an HTML page for unknown paths beside its own; at the root it would answer for every path."""

    def register(self, value: Any) -> list[Any]:
        return [] if LITESTAR_NOT_FOUND_PATH in getattr(value, "paths", ()) else super().register(value)


def config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Treadle",
        version="1",
        description="A durable queue service for AI agents.",
        openapi_router=_ReferenceRouter(
            "/",
            route_handlers=[reference_file],
            include_in_schema=False,
            dto=None,
            response_headers=REFERENCE_FILES.headers,
        ),
        render_plugins=[
            _ReferencePage("/", "/docs", name="swagger.html"),
            _ReferencePage("/redoc", name="redoc.html"),
        ],
    )


def describe_problems(app: Litestar) -> None:
    """Declare the problem as the answer of every operation, in place of the errors that Litestar would describe."""
    app.openapi_schema.components.schemas["Problem"] = PROBLEM_SCHEMA
    for path in (app.openapi_schema.paths or {}).values():
        for operation in (path.get, path.post, path.delete):
            if operation is not None and operation.responses is not None:
                operation.responses.pop("400", None)
                operation.responses["default"] = PROBLEM_RESPONSE
