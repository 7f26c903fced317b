"""The data folder of a private PostgreSQL: how it is made, which server runs on it, and its lock files."""

import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from service.errors import ConfigError
from service.local.place import Place

BUILTIN_LOCALE_SINCE = 17  # major version of PostgreSQL


class Postmaster(NamedTuple):
    """The main process of a server, as its postmaster.pid names it."""

    pid: int
    port: int


def make_if_missing(place: Place, *, sync: bool) -> None:
    """Make the data folder, whole or not at all; `sync` makes it durable. Raises ConfigError."""
    if place.data.exists():
        return
    new = place.data.with_name("data.new")
    shutil.rmtree(new, ignore_errors=True)
    options = ["--username=treadle", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    if _program_version(place) >= BUILTIN_LOCALE_SINCE:  # it sorts alike on every system and in every version
        options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        options += ["--locale=C.UTF-8"]
    if not sync:
        options.append("--no-sync")
    made = place.run(place.program("initdb"), "-D", new, *options, as_server_user=True)
    if made.returncode:
        raise ConfigError(f"PostgreSQL's initdb failed: {last_error_line(made.stderr)}")
    new.rename(place.data)


def check(place: Place) -> None:
    """Raise ConfigError unless the data folder belongs to the server's user and fits the installed version."""
    place.check_owner(place.data)
    file = place.data / "PG_VERSION"
    written = file.read_text().strip() if file.exists() else "of an unknown version"
    installed = _program_version(place)
    if written != str(installed):
        raise ConfigError(
            f"{place.data} was written by PostgreSQL {written}, but {installed} is installed: install the same."
        )


def read_postmaster(place: Place) -> Postmaster | None:
    """The process that postmaster.pid names. It may have ended, and another process may have its number."""
    with suppress(OSError, ValueError, IndexError):
        lines = (place.data / "postmaster.pid").read_text().splitlines()
        return Postmaster(int(lines[0]), int(lines[3]))
    return None


def is_server(place: Place, pid: int) -> bool:
    """Whether the process `pid` is a PostgreSQL server that runs on this data folder."""
    with suppress(OSError):
        if not Path("/proc/self/cwd").exists():
            return f"postgres -D {place.data} " in place.run("ps", "-ww", "-o", "args=", "-p", str(pid)).stdout
        process = Path("/proc", str(pid))
        name, folder = process.joinpath("cmdline").read_bytes(), process.joinpath("cwd").readlink()
        return b"postgres" in name and folder == place.data
    return False


def remove_stale_locks(place: Place, port: int) -> None:
    """Remove a dead server's lock files: PostgreSQL would obey them where another process has its number by now."""
    address = place.socket_folder / f".s.PGSQL.{port}"
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(address))
        raise ConfigError(f"A PostgreSQL outside this machine's processes serves {place.folder}: stop it first.")
    for path in (place.data / "postmaster.pid", address.with_name(f"{address.name}.lock")):
        path.unlink(missing_ok=True)


def last_error_line(output: str) -> str:
    """The line of a program's output that gives the reason: the last error, or else the last line."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if re.search(r"FATAL|PANIC|error:", line)]
    return (errors or lines)[-1]


def _program_version(place: Place) -> int:
    """The major version of the installed programs; `postgres --version` prints e.g. `postgres (PostgreSQL) 18.1`."""
    found = re.search(r"\(PostgreSQL\) (\d+)", place.run(place.program("postgres"), "--version").stdout)
    if found is None:
        raise ConfigError(f"{place.program('postgres')} does not tell its version: is it PostgreSQL?")
    return int(found[1])
