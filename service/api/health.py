"""/health: whether this API process answers, and whether it can serve requests."""

from collections.abc import Sequence
from typing import Literal

from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from msgspec import Struct

from service.access.principal import OPEN
from service.batching import Batcher
from service.db import schema
from service.errors import TreadleError
from service.installation.model import HealthProbe
from service.installation.store import InstallationStore


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

    def __init__(self, installation: InstallationStore) -> None:
        self._installation = installation
        self._probes: Batcher[None, HealthProbe] = Batcher(self._probe, limit=1_000)

    async def check(self) -> Response[Health]:
        try:
            found = await self._probes.submit(None)
        except TreadleError as error:
            return Response(Health("unhealthy", False, reasons=[str(error)]), status_code=503)
        if wrong := schema.problem(found.release):
            return Response(Health("unhealthy", found.has_queues, found.live_workers, [wrong]), status_code=503)
        reasons = found.reasons()
        return Response(Health("degraded" if reasons else "healthy", found.has_queues, found.live_workers, reasons))

    async def _probe(self, checks: Sequence[None], _: bool) -> list[HealthProbe]:
        return [await self._installation.health()] * len(checks)


UNAVAILABLE = {503: ResponseSpec(Health, description="The service cannot work; `reasons` says why.")}


@get(
    "/health",
    operation_id="getHealth",
    summary="Check whether the service can serve requests",
    responses=UNAVAILABLE,
)
async def health(health_checks: NamedDependency[HealthChecks]) -> Response[Health]:
    return await health_checks.check()


@get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Check the same; for load balancers",
    responses=UNAVAILABLE,
)
async def ready(health_checks: NamedDependency[HealthChecks]) -> Response[Health]:
    return await health_checks.check()


@get("/health/live", operation_id="getLiveness", summary="Check whether this process answers")
async def live() -> Liveness:
    return Liveness("ok")


router = Router("/", route_handlers=[health, ready, live], opt={"scope": OPEN}, tags=["Health"])
