"""What the environment says about connections to other servers: proxies and certificates.

The HTTP client of agents reads these variables when it is made, and would fail in each message.
"""

import ipaddress
import logging
import re
import ssl
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
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        if path := environ.get(name):
            _check_file(name, path)
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
    """Whether the URL has one of these schemes, a host that can exist, and no port that is impossible."""
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and _is_readable(url)
    except ValueError:  # the port, or brackets that do not match
        return False


def _is_readable(url: str) -> bool:
    """Whether httpx2 can read the URL. It also reads names that are in the domain name system though IDNA 2008 forbids
    them, such as xn--ls8h.la."""
    import httpx2  # takes long

    try:
        host = httpx2.URL(url).host
        return bool(host) and "xn--" not in host.split(".")
    except (httpx2.InvalidURL, UnicodeError):  # UnicodeError: a name that IDNA does not have
        return False


def _is_readable_by_all(url: str) -> bool:
    """Whether httpx, which A2A uses, can read it as well."""
    import httpx2
    import idna  # of httpx2

    if not _is_readable(url):
        return False
    host = httpx2.URL(url).raw_host.decode("ascii")
    try:
        if host.startswith("xn--"):
            idna.decode(host)
    except UnicodeError:
        return False
    return True


def _check_file(name: str, path: str) -> None:
    if name != "SSLKEYLOGFILE" and not Path(path).exists():
        raise ConfigError(f"{name}: {path} does not exist.")
    if name == "SSL_CERT_DIR" and not Path(path).is_dir():
        raise ConfigError(f"{name}: Expected a folder, got {path}.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if name == "SSL_CERT_FILE":
            context.load_verify_locations(cafile=path)
        elif name == "SSLKEYLOGFILE":
            context.keylog_filename = path
    except ssl.SSLError:
        raise ConfigError(f"{name}: Expected a file of certificates in PEM, got {path}.") from None
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be used: {error.strerror}.") from None


def _check_proxy(variable: str, proxy: str) -> None:
    if not is_http_url(proxy, PROXY_SCHEMES) or not _is_readable_by_all(proxy):
        schemes = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
        raise ConfigError(f"{variable}: Expected an address such as http://proxy.example:3128, with one of {schemes}.")


def _usable_exception(entry: str) -> str | None:
    """An entry of NO_PROXY as every client reads it; None where some client cannot."""
    entry = _with_scheme(entry)
    if re.fullmatch(r"\*|(\*?\.)?[A-Za-z0-9_][A-Za-z0-9_.-]*(:[0-9]{1,5})?", entry):
        # Clients read it with and without what stands for all names below it.
        bare = entry.removeprefix("*").removeprefix(".")
        return (
            entry if not bare or all(_is_readable_by_all(f"all://{start}{bare}") for start in ("", "*", "*.")) else None
        )
    if is_http_url(entry, ("all", "http", "https")):
        return entry if _is_readable_by_all(entry) else None
    with suppress(ValueError):
        return str(ipaddress.IPv4Network(entry, strict=False))
    with suppress(ValueError):
        address = ipaddress.IPv6Address(entry.removeprefix("[").removesuffix("]"))
        return None if address.scope_id else str(address)
    return None


def _with_scheme(entry: str) -> str:
    """A name with letters beyond ASCII, in Unicode or in punycode, as the URL of that host: the clients fail for the
    bare name, because they put an asterisk before it. Names below it have no form that they read."""
    is_international = not entry.isascii() or entry.lower().startswith("xn--") or ".xn--" in entry.lower()
    return f"all://{entry}" if is_international and "://" not in entry else entry
