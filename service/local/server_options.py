"""The settings with which a private PostgreSQL is started."""

from collections.abc import Mapping

from service.local.place import Place

SERVER_OPTIONS = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",  # statements carry users' texts, which no log should
    "autovacuum_naptime": "10s",  # rows of queues die young
    "unix_socket_permissions": "0700",
}
FAST_OPTIONS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "128MB"}


def command(place: Place, *, port: int, tcp: bool, options: Mapping[str, str]) -> list[str]:
    """The command that starts the server; `tcp`: it listens on 127.0.0.1 too. `options` override SERVER_OPTIONS."""
    settings = SERVER_OPTIONS | {
        "listen_addresses": "127.0.0.1" if tcp else "",
        "port": str(port),
        "unix_socket_directories": str(place.socket_folder),
        **options,
    }
    return [
        *(str(place.program("postgres")), "-D", str(place.data)),
        *(f"--{name}={value}" for name, value in settings.items()),
    ]
