"""The services of an API: the objects that its handlers and middleware take by name.

The routes are the same for all APIs of a process (tests start hundreds), so each request carries its API's services.
"""

from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import Any

from litestar.di import Provide
from litestar.types import ASGIApp, Receive, Scope, Send

_services: ContextVar[Mapping[str, Any]] = ContextVar("services")


class WithServices:
    """The outermost layer around the routes."""

    def __init__(self, app: ASGIApp, services: Mapping[str, Any]) -> None:
        self._app = app
        self._services = services

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        _services.set(self._services)
        return self._app(scope, receive, send)


def find_service(name: str) -> Any:
    """A service of the API that handles this request."""
    return _services.get()[name]


def provide_service(name: str) -> Provide:
    """The same, for a handler that has an argument of this name."""
    return Provide(lambda: _services.get()[name], sync_to_thread=False)
