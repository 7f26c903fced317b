"""The files in which libpq finds what a service of `service=NAME` is: an INI file of parameters."""

import os
from collections.abc import Iterator
from pathlib import Path


def parameters_of(service: str) -> list[tuple[str, str]]:
    """What the first file that has the service gives for it. Raises ValueError."""
    for path in _files():
        found = _section(path, service)
        if found is not None:
            return found
    raise ValueError(f"Expected a definition of the service {service!r} in {' or '.join(map(str, _files()))}")


def _files() -> list[Path]:
    """The user's file, and that of the system where PGSYSCONFDIR names its folder."""
    own = os.environ.get("PGSERVICEFILE")
    system = os.environ.get("PGSYSCONFDIR")
    return [
        Path(own) if own else Path.home() / ".pg_service.conf",
        *([Path(system, "pg_service.conf")] if system else []),
    ]


def _section(path: Path, service: str) -> list[tuple[str, str]] | None:
    """None: the file does not have it. Raises ValueError."""
    found: list[tuple[str, str]] | None = None
    for number, line in _lines(path):
        if line.startswith("["):
            if found is not None:
                break
            if line == f"[{service}]":
                found = []
        elif found is not None:
            name, separator, value = line.partition("=")
            if not separator or name == "service":
                raise ValueError(f"Expected name=value in line {number} of {path}")
            found.append((name, value))
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Those that say something, with their numbers. Raises ValueError for a file that is there and cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ValueError(f"The file {path} of service cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped
