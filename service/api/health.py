"""/health: whether this API process answers, and whether it can serve requests."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from msgspec import Struct

from service.access.authenticator import Access, bearer
from service.access.principal import OPEN_SCOPE
from service.batching import Batcher
from service.db import schema
from service.errors import NotConnected, SchemaError, TreadleError, Unauthorized, Unavailable
from service.installation.model import HealthProbe
from service.installation.store import InstallationStore

FOR_OPERATORS = (
    "Send a key of the tenant default with the scope read: the reasons name queues, agents and sessions of PostgreSQL."
)


class Health(Struct, frozen=True, omit_defaults=False):
    """`degraded`: the service works, and something keeps messages waiting or slows it down."""

    status: Literal["healthy", "degraded", "unhealthy"]
    queue_initialized: bool
    workers: int = 0  # with a heartbeat in the last ten seconds
    reasons: list[str] = []  # why it is not healthy, each a sentence with what to do


class Liveness(Struct, frozen=True):
    status: Literal["ok"]


class HealthChecks:
    """Those that arrive at the same time share a query."""

    def __init__(self, installation: InstallationStore, access: Access) -> None:
        self._installation = installation
        self._access = access
        self._probes: Batcher[None, HealthProbe] = Batcher(self._probe, limit=1_000)

    async def answer(self, authorization: str | None) -> Response[Health]:
        """`authorization`: the header. A check needs no key, but the reasons are for operators."""
        found = await self.check()
        if found.reasons and not await self._may_read_reasons(authorization):
            found = msgspec.structs.replace(found, reasons=[FOR_OPERATORS])
        return Response(found, status_code=503 if found.status == "unhealthy" else 200)

    async def check(self) -> Health:
        try:
            found = await self._probes.submit(None)
        except TreadleError as error:
            return Health("unhealthy", False, reasons=[error.reason if isinstance(error, NotConnected) else str(error)])
        if wrong := schema.problem(found.release):
            return Health("unhealthy", found.has_queues, found.live_workers, [wrong])
        reasons = found.reasons()
        return Health("degraded" if reasons else "healthy", found.has_queues, found.live_workers, reasons)

    async def _may_read_reasons(self, authorization: str | None) -> bool:
        """Where PostgreSQL is away, only the key of TREADLE_KEY and those in use are known."""
        try:
            principal = await self._access.identify(bearer(authorization or ""))
        except (Unauthorized, Unavailable, SchemaError):
            return False
        return principal.is_operator and "read" in principal.scopes

    async def _probe(self, checks: Sequence[None], _: bool) -> list[HealthProbe]:
        return [await self._installation.health()] * len(checks)


UNAVAILABLE = {503: ResponseSpec(Health, description="The service cannot work; `reasons` says why.")}


@get(
    "/health",
    operation_id="getHealth",
    summary="Check whether the service can serve requests",
    responses=UNAVAILABLE,
)
async def health(request: Request[Any, Any, Any], health_checks: NamedDependency[HealthChecks]) -> Response[Health]:
    return await health_checks.answer(request.headers.get("authorization"))


@get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Check the same; for load balancers",
    responses=UNAVAILABLE,
)
async def ready(request: Request[Any, Any, Any], health_checks: NamedDependency[HealthChecks]) -> Response[Health]:
    return await health_checks.answer(request.headers.get("authorization"))


@get("/health/live", operation_id="getLiveness", summary="Check whether this process answers")
async def live() -> Liveness:
    return Liveness("ok")


router = Router("/", route_handlers=[health, ready, live], opt={"scope": OPEN_SCOPE}, tags=["Health"])
