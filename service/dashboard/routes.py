"""The page to chat with: service/dashboard/static, a few files that need no other."""

from pathlib import Path
from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath
from litestar.response import Redirect

from service.errors import NotFound

FOLDER = Path(__file__).with_name("static")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Cache-Control": "no-cache",
    # Nothing from elsewhere, and nothing inline: what an agent says never runs.
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
FILES = {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in FOLDER.glob("*.*") if path.suffix in KINDS}


@get("/chat", include_in_schema=False)
async def page(request: Request[Any, Any, Any]) -> Response[Any]:
    if request.scope["raw_path"].endswith(b"/"):  # its links are relative
        return Redirect("../chat")
    return _file("chat.html")


@get("/chat/{name:str}", include_in_schema=False)
async def file(name: FromPath[str]) -> Response[bytes]:
    return _file(name)


def _file(name: str) -> Response[bytes]:
    if name not in FILES:
        raise NotFound(f"There is no file {name!r} of the chat page.")
    content, kind = FILES[name]
    return Response(content, media_type=kind, headers=HEADERS)
