"""The address of the database for programs whose arguments others can read."""

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit


def split_password(dsn: str) -> tuple[str, str | None]:
    """The address without its password, and the password if it has one."""
    parts = urlsplit(dsn)
    user_info, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = user_info.partition(":")
    query = parse_qsl(parts.query, keep_blank_values=True)
    named = [value for name, value in query if name == "password"]
    if not colon and not named:
        return dsn, None
    rest = urlencode([(name, value) for name, value in query if name != "password"])
    address = urlunsplit(parts._replace(netloc=f"{user}{at}{hosts}", query=rest))
    return address, named[-1] if named else unquote(password)


def with_login(dsn: str, user: str, password: str) -> str:
    """The address with another user and password, which need no escapes."""
    parts = urlsplit(dsn)
    hosts = parts.netloc.rpartition("@")[2]
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"user", "password"}]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{hosts}", query=urlencode(query)))
