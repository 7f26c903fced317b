"""The outermost layer: sends answers that stay open, when all other layers have returned.

An idle stream would otherwise keep the frames of each layer, the request with its headers, and what was found out about
it: 12 KiB of 24. And each of its events would pass through the layers that only look at heads.
"""

from typing import Any

from litestar.types import ASGIApp, Receive, Send

from service.streams import OPEN_ANSWER, OpenAnswer

# The extension of ASGI by which the server forgets a request whose answer stays open (`api.server`): a callable that
# takes the function to call when the client disconnects. It returns whether the client is still there.
FORGET_REQUEST = "treadle.forget_request"


class OpenAnswers:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException:
            if OPEN_ANSWER in scope:
                scope.pop(OPEN_ANSWER).end()
            raise
        answer: OpenAnswer | None = scope.pop(OPEN_ANSWER, None)
        if answer is None:
            return
        if scope["extensions"][FORGET_REQUEST](answer.leave):
            del scope, receive
            await answer.send_to(send)
        else:
            answer.end()
