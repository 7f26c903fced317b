"""What handlers take by name is at hand: nothing has to be awaited for it."""

from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import HTTPRoute, WebSocketRoute
from litestar.routes.base import BaseRoute


class WithoutTasks(ReceiveRoutePlugin):
    """Lets Litestar provide the dependencies of a handler one after the other. It creates a task group with a task for
    each of them otherwise, which takes as long as all the rest of a small request."""

    def receive_route(self, route: BaseRoute) -> None:
        if isinstance(route, HTTPRoute):
            models = [model for _, model in route.route_handler_map.values()]
        elif isinstance(route, WebSocketRoute) and route.handler_parameter_model is not None:
            models = [route.handler_parameter_model]
        else:
            models = []
        for model in models:
            model.dependency_batches = [{dependency} for batch in model.dependency_batches for dependency in batch]
