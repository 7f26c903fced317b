"""Every handler of every `routes` module is a route of the application."""

import importlib
import pkgutil

from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

import service
from service.api.app import Api
from service.config import Settings


def test_no_handler_is_missing_in_its_router() -> None:
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(service.__path__, "service.")
        if found.name.endswith(".routes") or found.name == "service.api.health"
    ]
    assert len(modules) >= 7
    declared = {
        value.fn: f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, BaseRouteHandler)
    }
    registered = {
        handler.fn
        for route in Api(Settings(), "postgresql://127.0.0.1:1/treadle").app.routes
        for handler in (route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler])
    }
    assert [name for handler, name in declared.items() if handler not in registered] == []
