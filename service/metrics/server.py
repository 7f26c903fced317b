"""The metrics of a worker over HTTP: a server in a thread of its own, which answers while agents hold the loop."""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import CollectorRegistry

from service.errors import ConfigError
from service.hosts import is_address, is_loopback, parse_authority

log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0  # that a client gets to send its request

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def serving(registry: CollectorRegistry, host: str, port: int, *, shared: bool = False) -> Iterator[int]:
    """Serve `/metrics` meanwhile; yields the port. `shared`: a process that takes the place of this one may listen
    there as well, until this one ends. Raises ConfigError where nothing can listen there."""
    app = make_wsgi_app(registry)
    server_class: type[ThreadingWSGIServer] = _ServerOfIpv6 if ":" in host else ThreadingWSGIServer
    if shared:
        server_class = type(server_class.__name__, (server_class,), {"allow_reuse_port": True})
    try:
        server = make_server(
            host, port, _refuse_names(app) if is_loopback(host) else app, server_class, handler_class=_Handler
        )
    except OSError as error:
        raise ConfigError(f"METRICS_PORT: nothing can listen on {host}, port {port}: {error.strerror}.") from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics are served", extra={"host": host, "port": server.server_port})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _refuse_names(app: App) -> App:
    """A web page can give this machine a name of its own (DNS rebinding), but not its address."""

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        authority = parse_authority(environ.get("HTTP_HOST", ""))
        if authority is None or not (is_address(authority.host) or is_loopback(authority.host)):
            start_response("421 Misdirected Request", [("Content-Type", "text/plain")])
            return [b"Ask by the address of this machine.\n"]
        return app(environ, start_response)

    return checked


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no event."""


class _ServerOfIpv6(ThreadingWSGIServer):
    address_family = socket.AF_INET6
