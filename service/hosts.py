"""Hosts and origins as clients write them in `Host` and `Origin`, and the settings that allow some of them."""

import ipaddress
import re
from typing import NamedTuple

from service.errors import ConfigError

MAX_AUTHORITY_BYTES = 300
DEFAULT_PORTS = {"http": "80", "https": "443"}
ANY = "*"

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_][a-z0-9_.-]{0,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{0,31})://(.{1,300})")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


class Authority(NamedTuple):
    """A host in lower case, without brackets and without a final dot; and its port as text, empty where it has none."""

    host: str
    port: str


class Origin(NamedTuple):
    """What a browser names a page by. The port is written out where the scheme has a usual one."""

    scheme: str
    host: str
    port: str


def parse_authority(text: str) -> Authority | None:
    """None for a text that is no host with or without a port, such as one with a user's name before it."""
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None:
        return None
    host = _canonical(found[1])
    return None if host is None else Authority(host, (found[2] or "").lstrip("0"))


def parse_origin(text: str) -> Origin | None:
    """None for `null`, and for a text that is no origin."""
    found = _ORIGIN.fullmatch(text.lower())
    authority = parse_authority(found[2]) if found else None
    if found is None or authority is None:
        return None
    return Origin(found[1], authority.host, authority.port or DEFAULT_PORTS.get(found[1], ""))


def is_address(host: str) -> bool:
    """Whether the host is an IP address. A page can be made to reach this machine under a name of its own, but under
    no address that is not this machine's."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_unspecified(host: str) -> bool:
    """Whether a server that listens there listens on every address of its machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


class AllowedHosts:
    """The hosts by which this API may be addressed. Without patterns: the one that it listens on, or every IP address
    where it listens on all of them; and the names of loopback."""

    def __init__(self, patterns: tuple[str, ...], *, listens_on: str) -> None:
        own = listens_on.lower()
        self._defaults = not patterns
        self._any_address = self._defaults and is_unspecified(own)
        self._exact = frozenset(_canonical(name) or name for name in patterns or (own,))
        self._suffixes = tuple(pattern[1:] for pattern in self._exact if pattern.startswith("*."))

    def allow(self, host: str) -> bool:
        if host in self._exact or ANY in self._exact or host.endswith(self._suffixes):
            return True
        return self._defaults and (is_loopback(host) or (self._any_address and is_address(host)))


class AllowedOrigins:
    """The origins whose pages may use the API from a browser, besides those that it serves itself."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        parsed = [_parse_pattern(pattern) for pattern in patterns]
        self._exact = frozenset(origin for origin, is_suffix in parsed if not is_suffix)
        self._suffixes = tuple(origin for origin, is_suffix in parsed if is_suffix)

    def __bool__(self) -> bool:
        return bool(self._exact or self._suffixes)

    def allow(self, origin: Origin) -> bool:
        return origin in self._exact or any(
            (origin.scheme, origin.port) == (allowed.scheme, allowed.port) and origin.host.endswith(f".{allowed.host}")
            for allowed in self._suffixes
        )


def check_settings(allowed_hosts: tuple[str, ...], cors_origins: tuple[str, ...], proxies: tuple[str, ...]) -> None:
    """Raises ConfigError."""
    for pattern in allowed_hosts:
        if pattern != ANY and not _NAME.fullmatch(pattern.lower()) and not is_address(pattern):
            raise ConfigError(
                f"ALLOWED_HOSTS: Expected names such as api.example.org or *.example.org without port, not {pattern!r}."
            )
    AllowedOrigins(cors_origins)
    for network in proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ConfigError(
                f"TRUSTED_PROXIES: Expected addresses or networks such as 10.0.0.0/8, got {network!r}."
            ) from None


def _parse_pattern(pattern: str) -> tuple[Origin, bool]:
    """The origin without `*.`, and whether it had one."""
    scheme, separator, authority = pattern.lower().partition("://")
    is_suffix = authority.startswith("*.")
    origin = parse_origin(f"{scheme}{separator}{authority.removeprefix('*.')}")
    if origin is None or (is_suffix and is_address(origin.host)):
        raise ConfigError(
            "CORS_ORIGINS: Expected origins such as https://app.example.org or https://*.example.org,"
            f" without a path, got {pattern!r}."
        )
    return origin, is_suffix


def _canonical(host: str) -> str | None:
    """None for brackets around a text that is no address of IPv6."""
    host = host.lower()
    if host.startswith("[") or ":" in host:
        try:
            return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
        except ValueError:
            return None
    return host.removesuffix(".")
