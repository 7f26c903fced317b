"""The wheel: it holds every file that the service reads, and it runs from an empty folder without the checkout."""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.local.private_postgres import PrivatePostgres
from tests.support.databases import patient
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 120.0  # after which a process that hangs is killed; none comes near


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built offline."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=LIMIT_SECONDS,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """The `bin` of a fresh virtual environment with the wheel, which sees the dependencies of this environment."""
    # Root's private PostgreSQL runs as another user, who cannot enter pytest's own temporary folders.
    with tempfile.TemporaryDirectory(prefix="treadle-wheel-") as name:
        os.chmod(name, 0o755)
        venv.create(name, symlinks=True)
        [site_packages] = Path(name, "lib").glob("python*/site-packages")
        # A .pth file in a folder that another .pth file names is not read: the editable checkout stays out of sight.
        (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(Path(name, "bin", "python")), "--quiet"]
        install = ["install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
        subprocess.run([*pip, *install], check=True, capture_output=True, timeout=LIMIT_SECONDS)
        yield Path(name, "bin")


@pytest.fixture
def environ(installed: Path, tmp_path: Path) -> dict[str, str]:
    port = free_port()
    return {"PATH": f"{installed}:{os.defpath}", "HOME": str(tmp_path), "PORT": str(port)}


def treadle(environ: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["treadle", *arguments]
    return subprocess.run(
        command, env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )


def test_the_wheel_holds_the_sql_the_migrations_and_the_static_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    wanted = {f"service/_data/{path.relative_to(ROOT)}" for path in (ROOT / "sql").glob("*.sql")}
    wanted |= {f"service/_data/{path.relative_to(ROOT)}" for path in (ROOT / "migrations").rglob("*.py")}
    for package in ("service", "treadle"):
        files = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        wanted |= {str(path.relative_to(ROOT)) for path in files}
    assert "service/_data/sql/50_claim.sql" in wanted
    assert "service/dashboard/static/chat.html" in wanted
    assert wanted - held == set()
    assert {name.partition("/")[0] for name in held} <= {"service", "treadle"}


def test_the_wheel_is_installed_beside_the_checkout_and_not_read_from_it(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "python"), "-c", "import service.cli, service.db.schema as s; print(s.SQL_FOLDER)"]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert Path(said.stdout.strip()).is_relative_to(installed.parent)


def test_migrate_works_from_the_wheel(environ: dict[str, str], empty_dsn: str, tmp_path: Path) -> None:
    done = treadle({**environ, "DATABASE_URL": patient(empty_dsn)}, tmp_path, "migrate")
    assert (done.returncode, done.stdout) == (0, "The database is ready.\n"), done.stderr
    done = treadle({**environ, "DATABASE_URL": patient(empty_dsn)}, tmp_path, "check")
    assert done.returncode == 0, done.stderr


def test_up_from_the_wheel_answers_a_message(environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="treadle-up-") as name:
        os.chmod(name, 0o755)
        folder = Path(name)
        with running_up(environ, folder) as up:
            said = ""
            assert up.stdout
            while not re.search(r"^ *curl -N", said, re.MULTILINE):
                line = up.stdout.readline()
                assert line, said
                said += line
            answer = treadle(environ, folder, "send", "hello from a wheel", "--follow")
            assert (answer.returncode, answer.stdout) == (0, "hello from a wheel\n"), answer.stderr
            up.terminate()
            up.stdout.read()
            assert up.wait() == 0


@contextlib.contextmanager
def running_up(environ: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`treadle up` in this folder; at the end nothing of it is left, its PostgreSQL included."""
    command = ["treadle", "up"]
    with subprocess.Popen(
        command, env=environ, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as up:
        guard = threading.Timer(LIMIT_SECONDS, up.kill)
        guard.start()
        try:
            yield up
        finally:
            up.terminate()
            up.communicate()
            guard.cancel()
            PrivatePostgres(folder / ".treadle").stop()


@pytest.mark.long
def test_the_fixtures_of_tests_come_with_the_wheel(environ: dict[str, str], installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from treadle import agent\n\n"
        "@agent('shout')\nasync def shout(context, text: str) -> str:\n    return text.upper()\n\n"
        "def test_it_shouts(treadle_run):\n    assert treadle_run.sync(shout, 'hello').result == 'HELLO'\n"
    )
    command = [str(installed / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
