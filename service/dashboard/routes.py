"""The pages: the chat at /chat (static/) and the dashboard at /dashboard (static/board/). Their files load nothing from
another host. Scripts of the dashboard import some of the chat by their address, `../chat/...`."""

from pathlib import Path
from typing import Any

from litestar import Request, Response, Router, get
from litestar.params import FromPath
from litestar.response import Redirect

from service.access.principal import OPEN_SCOPE
from service.static_files import StaticFiles

# No inline scripts and nothing from another host: what an agent says never runs as code.
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _files(folder: str) -> StaticFiles:
    paths = Path(__file__).parent.joinpath(folder).iterdir()
    return StaticFiles(paths, content_security_policy=POLICY, cache_control="no-cache")


CHAT_FILES = _files("static")
DASHBOARD_FILES = _files("static/board")


@get("/chat")
async def chat_page(request: Request[Any, Any, Any]) -> Response[Any]:
    return _page(request, CHAT_FILES, "chat")


@get("/chat/{name:str}")
async def chat_file(name: FromPath[str]) -> Response[bytes]:
    return CHAT_FILES.response(name)


@get("/dashboard")
async def dashboard_page(request: Request[Any, Any, Any]) -> Response[Any]:
    return _page(request, DASHBOARD_FILES, "dashboard")


@get("/dashboard/{name:str}")
async def dashboard_file(name: FromPath[str]) -> Response[bytes]:
    return DASHBOARD_FILES.response(name)


def _page(request: Request[Any, Any, Any], files: StaticFiles, name: str) -> Response[Any]:
    if request.scope["raw_path"].endswith(b"/"):  # the links of a page are relative
        return Redirect(f"../{name}")
    return files.response(f"{name}.html")


router = Router(
    "/",
    route_handlers=[chat_page, chat_file, dashboard_page, dashboard_file],
    include_in_schema=False,
    opt={"scope": OPEN_SCOPE},
)
