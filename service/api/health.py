"""/health: whether this API process answers, and whether it can serve requests."""

from typing import Any

from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from msgspec import Struct

from service.db import schema
from service.db.pool import Database
from service.errors import TreadleError

HEALTH_CHECK = f"""
    select {schema.RELEASE_FOUND} as release,
        exists (select from treadle.queues) as queue_initialized,
        (select count(*) from treadle.workers
            where heartbeat_at > treadle.clock() - interval '10 seconds') as workers"""


class Health(Struct, frozen=True, omit_defaults=False):
    status: str  # ok, or unavailable
    queue_initialized: bool
    workers: int = 0  # with a heartbeat in the last ten seconds
    detail: str | None = None  # why the service is unavailable


UNAVAILABLE = {503: ResponseSpec(Health, description="The service is unavailable; `detail` says why.")}


@get("/health", summary="Check whether the service can serve requests", responses=UNAVAILABLE)
async def health(database: NamedDependency[Database]) -> Response[Health]:
    return await _check(database)


@get("/health/ready", summary="Check the same; for load balancers", responses=UNAVAILABLE)
async def ready(database: NamedDependency[Database]) -> Response[Health]:
    return await _check(database)


@get("/health/live", summary="Check whether this process answers")
async def live() -> dict[str, Any]:
    return {"status": "ok"}


router = Router("/", route_handlers=[health, ready, live], tags=["Health"])


async def _check(database: Database) -> Response[Health]:
    try:
        row = await database.fetchrow(HEALTH_CHECK)
    except TreadleError as error:
        return Response(Health("unavailable", False, detail=str(error)), status_code=503)
    assert row is not None
    if detail := schema.problem(row["release"]):
        return Response(Health("unavailable", row["queue_initialized"], row["workers"], detail), status_code=503)
    return Response(Health("ok", row["queue_initialized"], row["workers"]))
