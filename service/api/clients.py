"""What a request knows of its client's connection."""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.patience import client_leaves


def watch_client(app: ASGIApp) -> ASGIApp:
    """Middleware: a request that waits for what another transaction holds is dropped when its client disconnects."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        client_leaves.set(lambda: _until_disconnect(receive))
        await app(scope, receive, send)
        client_leaves.set(None)  # an answer that stays open keeps nothing of its request

    return watched


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
