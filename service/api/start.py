"""`GET /`: what this is, for programs; where to go, for people."""

from typing import Any, Literal

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from msgspec import Struct

from service.access.principal import OPEN_SCOPE
from service.api.health import HealthChecks
from service.dashboard.routes import CHAT_FILES

NAME = "Treadle"
DOCS = "/docs"


class Start(Struct, frozen=True):
    name: str
    status: Literal["healthy", "degraded", "unhealthy"]  # as in /health
    docs: str


@get("/", operation_id="getStart", summary="Say what this is; browsers get a page")
async def start(request: Request[Any, Any, Any], health_checks: NamedDependency[HealthChecks]) -> Response[Start]:
    if "text/html" in request.headers.get("accept", "").lower():
        page: Response[Any] = CHAT_FILES.response("start.html")
        page.headers["Vary"] = "Accept"
        return page
    health = await health_checks.check()
    return Response(Start(NAME, health.status, DOCS), status_code=200, headers={"Vary": "Accept"})


router = Router("/", route_handlers=[start], opt={"scope": OPEN_SCOPE}, tags=["Health"])
