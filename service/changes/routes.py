"""/changes: when to read lists and figures again."""

from typing import Any

from litestar import Response, Router, get
from litestar.di import NamedDependency

from service.access.principal import Principal
from service.changes.sse import ChangeStreams
from service.sse_frames import MEDIA_TYPE
from service.streams import sse


@get(
    "/changes",
    operation_id="streamChanges",
    scope="read",
    unrestricted=True,
    is_stream=True,
    summary="Stream when to read lists and figures again",
    description="Server-sent events `changed`, at most one a second, when messages of the caller's tenant have changed"
    " their state, or its topics have grown; for a caller of the tenant default, those of any tenant. The stream does"
    " not say which, and never ends by itself.",
    media_type=MEDIA_TYPE,
)
async def stream_changes(
    principal: NamedDependency[Principal], change_streams: NamedDependency[ChangeStreams]
) -> Response[Any]:
    return sse(change_streams.stream(principal))


router = Router("/", route_handlers=[stream_changes], tags=["Queues"])
