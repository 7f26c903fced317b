"""The API's description: OpenAPI at /openapi.json, shown by Swagger UI at /docs and by ReDoc at /redoc.

The scripts of both pages are files of the package fastapi-offline, so that the pages work without Internet and run no
code from another host.
"""

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.enums import OpenAPIMediaType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, Tag
from litestar.params import FromPath

from service.access.principal import OPEN_SCOPE
from service.api import description
from service.api.examples import EXAMPLES
from service.errors import ConfigError
from service.static_files import StaticFiles

LITESTAR_NOT_FOUND_PATH = "/{path:str}"
REDOC_LOGO_URL = b"https://cdn.redoc.ly/redoc/logo-mini.svg"  # below the menu of every ReDoc page

TAGS = [
    Tag("Messages", "Submit messages to agents, follow their state, cancel them, answer their questions."),
    Tag("Events", "The log of a message or a thread, as a stream that can be resumed, and as pages."),
    Tag("Threads", "Conversations: read and delete them."),
    Tag("Workers", "The workers that live; and remote ones, which claim, stream and end messages over HTTP."),
    Tag("Topics", "Named, retained logs of records, and the subscriptions that make messages of them."),
    Tag("Queues", "What operators read and switch: queues, dead letters, agents, workers."),
    Tag("Access", "API keys, and access tokens for browsers."),
    Tag("Webhooks", "Endpoints that are told when messages end, and the secrets that sign what they receive."),
    Tag("Tenants", "The customers of the installation."),
    Tag("Health", "For load balancers and process managers."),
]


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


class _Description(OpenAPIRenderPlugin):
    """/openapi.json, with the examples: Litestar would leave out their fields that are null."""

    def __init__(self, *, needs_key: bool) -> None:
        super().__init__(path="/openapi.json", media_type=OpenAPIMediaType.OPENAPI_JSON)
        self._needs_key = needs_key
        self._document = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if not self._document:
            completed = description.complete(request.app, needs_key=self._needs_key)
            for name, example in EXAMPLES.items():
                completed["components"]["schemas"][name]["examples"] = [example]
            self._document = msgspec.json.encode(completed)
        return self._document


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
    """Litestar adds an HTML page for unknown paths beside its own, which at the root would answer for every path; and a
    page at the root itself, where service/api/start.py answers."""

    def register(self, value: Any) -> list[Any]:
        paths = set(getattr(value, "paths", ()))
        if LITESTAR_NOT_FOUND_PATH in paths:
            return []
        if "/" in paths:
            value.paths = paths - {"/"}
        return super().register(value)


def config(*, needs_key: bool) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Treadle",
        version="1",
        description="A durable queue service for AI agents.",
        tags=TAGS,
        components=Components(security_schemes=dict(description.SECURITY_SCHEMES)),
        openapi_router=_ReferenceRouter(
            "/",
            route_handlers=[reference_file],
            include_in_schema=False,
            opt={"scope": OPEN_SCOPE},
            dto=None,
            response_headers=REFERENCE_FILES.headers,
        ),
        render_plugins=[
            _Description(needs_key=needs_key),
            _ReferencePage("/docs", name="swagger.html"),
            _ReferencePage("/redoc", name="redoc.html"),
        ],
    )
