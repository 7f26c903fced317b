"""The metrics of a worker over HTTP: a server in a thread of its own, which answers while agents hold the loop."""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import CollectorRegistry

from service.errors import ConfigError
from service.hosts import is_address, is_loopback, parse_authority

log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0  # that a client gets to send its request
RETRY_SECONDS = 1.0  # while another process has the port

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def serving(registry: CollectorRegistry, host: str, port: int, *, waits: bool = False) -> Iterator[int]:
    """Serve `/metrics` meanwhile; yields the port. Where nothing can listen there, raises ConfigError. `waits`: waits
    instead until it can, because the process that this one replaces may have the port until it ends."""
    server = _Server(registry, host, port)
    try:
        server.listen()
    except OSError as error:
        extra = {"host": host, "port": port, "error": error.strerror}
        if not waits:
            raise ConfigError(f"METRICS_PORT: nothing can listen on {host}, port {port}: {error.strerror}.") from None
        log.warning("metrics are not served until their port is free", extra=extra)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


class _Server:
    """A server in a thread, which listens as soon as it can."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        app = make_wsgi_app(registry)
        self.port = port
        self._host = host
        self._app = _refuse_names(app) if is_loopback(host) else app
        self._server: WSGIServer | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def listen(self) -> None:
        """Raises OSError."""
        server_class = _ServerOfIpv6 if ":" in self._host else ThreadingWSGIServer
        self._server = make_server(self._host, self.port, self._app, server_class, handler_class=_Handler)
        self.port = self._server.server_port
        log.info("metrics are served", extra={"host": self._host, "port": self.port})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        while self._thread.is_alive():
            if self._server is not None:
                self._server.shutdown()
            self._thread.join(0.1)

    def _serve(self) -> None:
        while self._server is None and not self._stopping.wait(RETRY_SECONDS):
            with suppress(OSError):
                self.listen()
        if self._server is not None:
            self._server.serve_forever()
            self._server.server_close()


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
