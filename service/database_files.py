"""The files of certificates and keys with which a connection to PostgreSQL is encrypted, as asyncpg will load them."""

import functools
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

DEFAULTS = {  # in ~/.postgresql
    "sslrootcert": "root.crt",
    "sslcrl": "root.crl",
    "sslcert": "postgresql.crt",
    "sslkey": "postgresql.key",
}
UNCHECKED = ("allow", "prefer")  # modes that do not look at the server's certificate


def check(query: Mapping[str, str], default_mode: str) -> None:
    """Raises ValueError, naming the file, where no connection could be opened. `query`: the address's parameters."""
    mode = query.get("sslmode") or os.environ.get("PGSSLMODE") or default_mode
    if mode == "disable":
        return
    for name in DEFAULTS:
        if name in query and not Path(query[name]).is_file():
            raise ValueError(f"The file {query[name]} of {name} does not exist")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        if (path := _file(query, name)) and (name in query or mode not in UNCHECKED):
            _load(name, path, functools.partial(context.load_verify_locations, cafile=path))
    if certificate := _file(query, "sslcert"):
        key, password = _file(query, "sslkey"), query.get("sslpassword", "")
        _load("sslcert", certificate, functools.partial(context.load_cert_chain, certificate, key, lambda: password))


def _load(name: str, path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError:
        kind = "certificate in PEM, with its key in sslkey" if name == "sslcert" else "PEM file"
        raise ValueError(f"Expected a {kind}: {path} of {name} cannot be used") from None
    except OSError as error:
        raise ValueError(f"The file {path} of {name} cannot be read: {error.strerror}") from None


def _file(query: Mapping[str, str], name: str) -> str | None:
    """What the address gives, or the environment, or the file in the user's folder if it is there."""
    if given := query.get(name) or os.environ.get(f"PG{name.upper()}"):
        return given
    try:
        default = Path.home() / ".postgresql" / DEFAULTS[name]
    except (RuntimeError, KeyError):  # the user has no home, as in some containers
        return None
    return str(default) if default.is_file() else None
