"""The address of PostgreSQL: a URL with libpq's parameters, as psql takes it.

asyncpg knows fewer of these parameters and would hand the others to the server as settings. So each one that libpq of
PostgreSQL 18 has is passed on, carried out here, or refused with a sentence.
"""

import functools
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

from service import database_files, database_services, database_settings
from service.errors import ConfigError

EXAMPLE = "postgresql://user:password@host:5432/database"
SCHEMES = ("postgresql", "postgres")

# What asyncpg does with these is what libpq does.
PASSED_ON = frozenset(
    [
        "passfile",
        "application_name",
        "options",
        "krbsrvname",
        "gsslib",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
    ]
)
# Carried out by this module or by service.db.connection.
CARRIED_OUT = frozenset(
    [
        "service",
        "user",
        "password",
        "dbname",
        "database",  # of asyncpg: the same as dbname
        "host",
        "hostaddr",
        "port",
        "ssl",
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "load_balance_hosts",
        "fallback_application_name",
    ]
)
# Values that describe what a connection of ours is like anyway. (Treadle writes, so it cannot prefer a standby.)
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "utf-8", "unicode"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "max_protocol_version": ("3.0", "3.2", "latest"),
    "min_protocol_version": ("3.0",),
    "replication": ("false", "off", "no", "0"),
    "requiressl": ("0",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0", "1"),
    "sslsni": ("1",),
    "target_session_attrs": ("any", "read-write", "primary", "prefer-standby"),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "load_balance_hosts": ("disable", "random"),
    "ssl": ("true",),
}
NOT_SUPPORTED = frozenset(
    ["require_auth", "requirepeer", "servicefile", "sslcrldir", "sslkeylogfile", "scram_client_key", "scram_server_key"]
)
SOCKET_OPTIONS = {  # of TCP, by the parameter that sets them; some systems lack some
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


class Address(Struct, frozen=True):
    """`url` is for asyncpg. `hosts` are in their order; a port that is not given is None. `socket_options` are
    (level, option, value) of a TCP connection."""

    url: str
    hosts: tuple[tuple[str, int | None], ...]
    connect_seconds: float | None = None  # None: not given
    application_name: str | None = None
    system_certificates: bool = False  # check the server's certificate with those of the system
    any_order: bool = False  # of the hosts
    settings: frozenset[str] = frozenset()  # of the server, which the address sets by `options`
    socket_options: tuple[tuple[int, int, int], ...] = ()


@functools.lru_cache(maxsize=16)
def parse(url: str, setting: str = "DATABASE_URL") -> Address:
    """Raises ConfigError with one sentence, which begins with the name of the setting and has no password."""
    try:
        return _parse(url.strip())
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}.") from None


def _parse(url: str) -> Address:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"Expected an address such as {EXAMPLE}")
    for character, code in (("#", "%23"), (" ", "%20")):
        if character in rest:
            raise ValueError(f"Expected {code} in the place of {character!r}")
    if re.search(r"[^\x21-\x7e]", rest) and not rest.isprintable():
        raise ValueError("Expected no control characters")
    if re.search("%(?![0-9A-Fa-f]{2})", rest):
        raise ValueError("Expected %25 in the place of a percent sign that begins no code such as %40")
    parts = urlsplit(url)  # ValueError: brackets that do not match
    user, _, netloc = parts.netloc.rpartition("@")
    if "@" in user:
        raise ValueError("Expected %40 in the place of an @ in the user's name or password")
    given = _with_service(_authority(user, parts.path) | _parameters(parts.query), netloc)
    hosts = _hosts(netloc, given)
    query = {name: value for name, value in given.items() if name in PASSED_ON}
    if given.get("ssl") == "true":
        query.setdefault("sslmode", "require")
    system_certificates = query.get("sslrootcert") == "system"
    if system_certificates:
        if query.pop("sslmode", "verify-full") != "verify-full":
            raise ValueError("Expected sslmode=verify-full with sslrootcert=system")
        del query["sslrootcert"]
    database_files.check(query, "disable" if all(host.startswith("/") for host, _ in hosts) else "prefer")
    settings = database_settings.given(query.get("options", ""))
    if any(host for host, _ in hosts):
        query["host"] = ",".join(f"[{host}]" if ":" in host and host[0] != "/" else host for host, _ in hosts)
    if any(port for _, port in hosts):
        query["port"] = ",".join(str(port or 5432) for _, port in hosts)
    text = "&".join(f"{name}={quote(value, safe='/[],:')}" for name, value in query.items())
    return Address(
        f"postgresql://{_login(given)}{_path(given)}{'?' if text else ''}{text}",
        hosts,
        connect_seconds=float(_number(given, "connect_timeout")) or None,
        application_name=given.get("application_name"),
        system_certificates=system_certificates,
        any_order=given.get("load_balance_hosts") == "random",
        settings=frozenset(settings),
        socket_options=_socket_options(given),
    )


def _authority(user: str, path: str) -> dict[str, str]:
    """The name, the password and the database that stand in front of the parameters. As in libpq, the parameters go
    before them."""
    name, _, password = user.partition(":")
    given = {"user": name, "password": password, "dbname": path.removeprefix("/")}
    return _checked((name, unquote(text)) for name, text in given.items())


def _login(given: Mapping[str, str]) -> str:
    if not given.keys() & {"user", "password"}:
        return ""
    password = given.get("password")
    return quote(given.get("user", ""), safe="") + ("" if password is None else f":{quote(password, safe='')}") + "@"


def _path(given: Mapping[str, str]) -> str:
    return "/" + quote(given["dbname"], safe="") if "dbname" in given else ""


def _with_service(given: dict[str, str], netloc: str) -> dict[str, str]:
    """With what the service gives, if one is named: the address itself goes before it. Raises ValueError."""
    if "service" not in given:
        return given
    service = _checked(database_services.parameters_of(given["service"]))
    if netloc or given.keys() & {"host", "hostaddr"}:
        service = {name: value for name, value in service.items() if name not in ("host", "hostaddr")}
    if any(_ports(netloc)):
        service.pop("port", None)
    return service | given


def _parameters(query: str) -> dict[str, str]:
    """The parameters that are given, decoded as libpq does it: a plus is no space. Raises ValueError."""
    pairs = []
    for part in query.split("&") if query else ():
        name, separator, value = (unquote(text) if text else text for text in part.partition("="))
        if not separator:
            raise ValueError(f"Expected name=value among the parameters, got {name!r}")
        pairs.append((name, value))
    return _checked(pairs)


def _checked(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters that have a value. Raises ValueError."""
    given: dict[str, str] = {}
    for name, value in pairs:
        if name.startswith("oauth_") or name in NOT_SUPPORTED:
            raise ValueError(f"The parameter {name} is not supported: leave it out")
        if name not in PASSED_ON | CARRIED_OUT | WITHOUT_EFFECT.keys():
            raise ValueError(
                f"There is no parameter {name!r}; a setting of the server is written options=-c%20name%3Dvalue"
            )
        if not value:  # libpq: as if it were not given
            continue
        if "\0" in value:
            raise ValueError(f"Expected no character with the code 0 in {name}")
        choices = WITHOUT_EFFECT.get(name) or CHOICES.get(name)
        if choices and value.lower() not in choices:
            raise ValueError(f"{name} may be {' or '.join(choices)} here, not {value!r}")
        given["dbname" if name == "database" else name] = value
    return given


def _hosts(netloc: str, given: Mapping[str, str]) -> tuple[tuple[str, int | None], ...]:
    named = given.get("host") or given.get("hostaddr") or netloc
    if "hostaddr" in given:
        if given.get("sslmode") == "verify-full":
            raise ValueError("Expected host instead of hostaddr with sslmode=verify-full")
        named = given["hostaddr"]
        for address in named.split(","):
            ipaddress.ip_address(address or "0.0.0.0")  # ValueError says what was expected
    literal = "host" in given or "hostaddr" in given  # already decoded
    specs = named.split(",")
    ports = given["port"].split(",") if "port" in given else _ports(netloc)
    if len(ports) > 1 and len(ports) != len(specs):
        raise ValueError(f"Expected one port or as many as hosts, got {len(ports)} for {len(specs)}")
    found = []
    for n, spec in enumerate(specs):
        host, port = (spec, "") if "hostaddr" in given else _split_port(spec)
        if ports:
            port = ports[n] if len(ports) > 1 else ports[0]
        host = host.strip("[]")
        found.append((host if literal else unquote(host), _port(port)))
    return tuple(found)


def _ports(netloc: str) -> list[str]:
    """Those in front of the parameters, one for each host there; "" where none is given."""
    return [_split_port(spec)[1] for spec in netloc.split(",")]


def _split_port(spec: str) -> tuple[str, str]:
    """The host and the port of one host in an address; "" for a part that is not given."""
    if spec.startswith("/"):  # the folder of a unix socket
        return spec, ""
    if spec.startswith("["):
        host, _, rest = spec.partition("]")
        if rest and not rest.startswith(":"):
            raise ValueError(f"Expected a port after the address in brackets, got {rest!r}")
        return host, rest[1:]
    if spec.count(":") > 1:
        raise ValueError(f"Expected an IPv6 address in brackets: [{spec}]")
    host, _, port = spec.partition(":")
    return host, port


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= 65535):
        raise ValueError(f"Expected a port from 1 to 65535, got {text!r}")
    return int(text)


def _number(given: Mapping[str, str], name: str) -> int:
    """A whole number; 0 where it is not given or negative, which libpq takes for its default."""
    text = given.get(name, "0").strip()
    if not re.fullmatch("[+-]?[0-9]{1,9}", text):
        raise ValueError(f"Expected a whole number as {name}, got {text!r}")
    return max(int(text), 0)


def _socket_options(given: Mapping[str, str]) -> tuple[tuple[int, int, int], ...]:
    options = [
        (socket.IPPROTO_TCP, int(getattr(socket, option)), number)
        for name, option in SOCKET_OPTIONS.items()
        if (number := _number(given, name)) and hasattr(socket, option)
    ]
    if "keepalives" in given or any(name.startswith("keepalives_") for name in given):
        wanted = _number(given, "keepalives") if "keepalives" in given else 1
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, min(wanted, 1)))
    with socket.socket() as trial:
        for name, option in SOCKET_OPTIONS.items():
            if number := _number(given, name):
                _try_option(trial, name, option, number)
    return tuple(options)


def _try_option(trial: socket.socket, name: str, option: str, number: int) -> None:
    if not hasattr(socket, option):
        return
    try:
        trial.setsockopt(socket.IPPROTO_TCP, int(getattr(socket, option)), number)
    except (OSError, OverflowError):
        raise ValueError(f"Expected a {name} that this system takes, got {number}") from None
