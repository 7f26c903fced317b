"""What the environment says about connections to other servers: proxies and certificates.

The HTTP client of agents reads these variables when it is made, and would fail in each message.
"""

import ipaddress
import logging
import re
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from service.errors import ConfigError

log = logging.getLogger(__name__)

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def check(environ: Mapping[str, str]) -> None:
    """Raise ConfigError, naming the variable, where no HTTP client could be made."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (path := environ.get(name)) and not Path(path).exists():
            raise ConfigError(f"{name}: {path} does not exist.")
    for name in PROXY_VARIABLES:
        variable = name.lower() if name.lower() in environ else name  # the lower case wins, also when it is empty
        if proxy := environ.get(variable):
            _check_proxy(variable, proxy if "://" in proxy else f"http://{proxy}")


def prepare(environ: MutableMapping[str, str]) -> None:
    """`check`, and drop the entries of NO_PROXY that no HTTP client can be made with, such as a network of IPv6."""
    check(environ)
    for variable in ("NO_PROXY", "no_proxy"):
        entries = [entry.strip() for entry in environ.get(variable, "").split(",") if entry.strip()]
        usable = [found for entry in entries if (found := _usable_exception(entry))]
        if len(usable) < len(entries):
            log.warning("entries of %s are passed over", variable, extra={"entries": len(entries) - len(usable)})
        if usable != entries:
            environ[variable] = ",".join(usable)


def is_http_url(url: str, schemes: tuple[str, ...] = ("http", "https")) -> bool:
    """Whether the URL has one of these schemes, a host, and no port that is impossible."""
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:  # the port, or brackets that do not match
        return False


def _check_proxy(variable: str, proxy: str) -> None:
    if not is_http_url(proxy, PROXY_SCHEMES):
        schemes = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
        raise ConfigError(f"{variable}: Expected a proxy's address that begins with one of {schemes}.")


def _usable_exception(entry: str) -> str | None:
    """An entry of NO_PROXY as every client reads it; None where some client cannot."""
    if re.fullmatch(r"\*|(\*?\.)?[A-Za-z0-9_][A-Za-z0-9_.-]*(:[0-9]{1,5})?", entry):
        return entry
    if is_http_url(entry, ("all", "http", "https")):
        return entry
    with suppress(ValueError):
        return str(ipaddress.IPv4Network(entry, strict=False))
    with suppress(ValueError):
        address = ipaddress.IPv6Address(entry.removeprefix("[").removesuffix("]"))
        return None if address.scope_id else str(address)
    return None
