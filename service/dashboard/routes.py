"""The chat page at /chat: the files of service/dashboard/static, which load nothing from another host."""

from pathlib import Path
from typing import Any

from litestar import Request, Response, Router, get
from litestar.params import FromPath
from litestar.response import Redirect

from service.access.principal import OPEN
from service.static_files import StaticFiles

CHAT_FILES = StaticFiles(
    Path(__file__).with_name("static").iterdir(),
    # No inline scripts and nothing from another host: what an agent says never runs as code.
    content_security_policy="default-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    cache_control="no-cache",
)


@get("/chat")
async def chat_page(request: Request[Any, Any, Any]) -> Response[Any]:
    if request.scope["raw_path"].endswith(b"/"):  # the links of the page are relative
        return Redirect("../chat")
    return CHAT_FILES.response("chat.html")


@get("/chat/{name:str}")
async def chat_file(name: FromPath[str]) -> Response[bytes]:
    return CHAT_FILES.response(name)


router = Router("/", route_handlers=[chat_page, chat_file], include_in_schema=False, opt={"scope": OPEN})
