"""/health: whether this API process answers, and whether it can serve requests."""

from typing import Literal

from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from msgspec import Struct

from service.access.principal import OPEN
from service.db import schema
from service.errors import TreadleError
from service.installation.store import InstallationStore


class Health(Struct, frozen=True, omit_defaults=False):
    status: Literal["ok", "unavailable"]
    queue_initialized: bool
    workers: int = 0  # with a heartbeat in the last ten seconds
    detail: str | None = None  # why the service is unavailable, or what slows it down


class Liveness(Struct, frozen=True):
    status: Literal["ok"]


UNAVAILABLE = {503: ResponseSpec(Health, description="The service is unavailable; `detail` says why.")}


@get(
    "/health",
    operation_id="getHealth",
    summary="Check whether the service can serve requests",
    responses=UNAVAILABLE,
)
async def health(installation: NamedDependency[InstallationStore]) -> Response[Health]:
    return await _check(installation)


@get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Check the same; for load balancers",
    responses=UNAVAILABLE,
)
async def ready(installation: NamedDependency[InstallationStore]) -> Response[Health]:
    return await _check(installation)


@get("/health/live", operation_id="getLiveness", summary="Check whether this process answers")
async def live() -> Liveness:
    return Liveness("ok")


router = Router("/", route_handlers=[health, ready, live], opt={"scope": OPEN}, tags=["Health"])


async def _check(installation: InstallationStore) -> Response[Health]:
    try:
        found = await installation.health()
    except TreadleError as error:
        return Response(Health("unavailable", False, detail=str(error)), status_code=503)
    if detail := schema.problem(found.release):
        return Response(Health("unavailable", found.has_queues, found.live_workers, detail), status_code=503)
    return Response(Health("ok", found.has_queues, found.live_workers, found.slowed_by()))
