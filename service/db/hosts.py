"""The hosts of a connection string, which may name several: a primary and its standbys."""

from urllib.parse import parse_qs, urlsplit


def hosts(dsn: str) -> list[tuple[str, int | None]]:
    """The hosts and ports of a libpq URL, in its order; a port that is not given is None."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    named = query.get("host", [""])[-1] or parts.netloc.rpartition("@")[2]
    ports = query.get("port", [""])[-1].split(",")
    found = []
    for n, spec in enumerate(named.split(",")):
        host, colon, port = spec.rpartition(":")
        if not colon or spec.endswith("]"):  # an IPv6 address alone, [::1]
            host, port = spec, ports[n] if n < len(ports) else ports[-1]
        found.append((host.strip("[]"), int(port) if port.isdecimal() else None))
    return found
