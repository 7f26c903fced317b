"""The container files, as far as they can be checked without a container engine."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from service.cli import main
from service.config import Settings
from service.local.health_check import check
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip

COMPOSE = ROOT / "docker-compose.yml"
OURS = {"migrate", "api", "worker"}
LASTING = {"postgres", "api", "worker"}
SETTINGS = {field.name.upper() for field in msgspec.structs.fields(Settings)}
OTHERS = {"PATH", "PYTHONUNBUFFERED", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"])


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, in order."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    split = [re.sub(r" +", " ", line).partition(" ") for line in text.splitlines() if line.strip()]
    return [(instruction, argument.strip()) for instruction, _, argument in split]


def only(dockerfile: list[tuple[str, str]], instruction: str) -> str:
    [argument] = [argument for name, argument in dockerfile if name == instruction]
    return argument


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


# docker-compose.yml


def test_compose_has_the_services_of_the_docs(services: dict[str, Any]) -> None:
    assert set(services) == OURS | {"postgres"}
    commands = {name: services[name]["command"] for name in OURS}
    assert commands == {"migrate": ["migrate"], "api": ["serve"], "worker": ["work"]}
    assert isinstance(main, click.Group)
    assert {command for [command] in commands.values()} <= set(main.commands)


def test_postgres_is_the_stock_image_and_keeps_its_data(services: dict[str, Any]) -> None:
    postgres = services["postgres"]
    assert re.fullmatch(r"postgres:\d+", postgres["image"])
    # since PostgreSQL 18 the image keeps its data below this folder
    assert postgres["volumes"][0] == "postgres:/var/lib/postgresql"
    assert postgres["volumes"][1:] == ["./docker/logins.sh:/docker-entrypoint-initdb.d/logins.sh:ro"]
    assert list(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["volumes"]) == ["postgres"]
    assert "pg_isready" in postgres["healthcheck"]["test"]
    assert "ports" not in postgres


def test_each_service_waits_for_the_services_it_needs(services: dict[str, Any]) -> None:
    healthy = {"condition": "service_healthy"}
    assert services["migrate"]["depends_on"] == {"postgres": healthy}
    for name in ("api", "worker"):
        assert services[name]["depends_on"] == {
            "postgres": healthy,
            "migrate": {"condition": "service_completed_successfully"},
        }


def test_lasting_services_restart_and_have_time_to_stop(services: dict[str, Any]) -> None:
    for name in LASTING:
        assert services[name]["restart"] == "unless-stopped"
    for name in ("api", "worker"):
        grace = float(services[name]["environment"].get("SHUTDOWN_GRACE", Settings().shutdown_grace))
        assert seconds(services[name]["stop_grace_period"]) > max(grace, Settings().shutdown_grace)
        assert services[name]["init"] is True
    assert services["migrate"]["restart"] != "unless-stopped"  # it would never be "completed"


def test_every_service_has_a_health_check_or_disables_it(services: dict[str, Any]) -> None:
    for name in OURS | LASTING:
        check = services[name]["healthcheck"]
        assert check == {"disable": True} if name in {"migrate", "worker"} else check["test"][0] == "CMD"


def test_workers_can_be_scaled(services: dict[str, Any]) -> None:
    assert not {"container_name", "ports", "hostname"} & set(services["worker"])


def test_no_image_is_built_twice_under_one_name(services: dict[str, Any]) -> None:
    assert all("image" not in services[name] and services[name]["build"] for name in OURS)


def test_every_variable_is_a_setting(services: dict[str, Any], dockerfile: list[tuple[str, str]]) -> None:
    for name in OURS:
        assert set(services[name]["environment"]) <= SETTINGS
    ours = " ".join(argument for instruction, argument in dockerfile if instruction == "ENV")
    names = set(re.findall(r"(\w+)=", ours))
    assert names - OTHERS <= SETTINGS


def test_every_interpolated_variable_is_explained_and_only_the_key_has_no_default() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names == set(re.findall(r"\$\{(\w+):-[^}]*\}", text)) | {"TREADLE_KEY"}
    assert names == set(re.findall(r"^#   ([A-Z_]+) ", text, flags=re.M))


def test_the_default_values_reach_the_database(services: dict[str, Any]) -> None:
    environment = services["postgres"]["environment"]
    created = (ROOT / "docker/logins.sh").read_text(encoding="utf-8")
    for name, user, role in (
        ("migrate", environment["POSTGRES_USER"], None),
        ("api", "api_login", "treadle_app"),
        ("worker", "worker_login", "treadle_worker"),
    ):
        login = f"{user}:{environment['POSTGRES_PASSWORD']}"
        address = services[name]["environment"]["DATABASE_URL"]
        assert address == f"postgresql://{login}@postgres:5432/{environment['POSTGRES_DB']}"
        if role is not None:
            assert f"create role {user} login password :'password' in role {role};" in created


def test_the_api_is_published_where_it_listens(services: dict[str, Any], dockerfile: list[tuple[str, str]]) -> None:
    [published] = services["api"]["ports"]
    assert published.startswith("127.0.0.1:")
    port = published.rpartition(":")[2]
    assert only(dockerfile, "EXPOSE") == port
    assert any(f"PORT={port}" in argument for instruction, argument in dockerfile if instruction == "ENV")


def test_compose_accepts_the_file(services: dict[str, Any]) -> None:
    found = next(filter(None, (_compose("docker", "compose"), _compose("docker-compose"))), None)
    command = require_or_skip(found, "`docker compose` or `docker-compose`")

    def config(key: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TREADLE_KEY": key}
        asked = [*command, "-f", str(COMPOSE), "config"]
        return subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert "TREADLE_KEY" in config("").stderr  # the API is never without one
    done = config("k" * 32)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(services)


def _compose(*command: str) -> tuple[str, ...] | None:
    if shutil.which(command[0]) is None:
        return None
    asked = subprocess.run([*command, "version"], capture_output=True, timeout=30, check=False)
    return command if asked.returncode == 0 else None


# Dockerfile


def test_the_image_installs_the_pinned_packages(dockerfile: list[tuple[str, str]]) -> None:
    installs = [argument for instruction, argument in dockerfile if instruction == "RUN"]
    assert "pip install --require-hashes -r requirements.lock" in installs[0]
    assert "pip install --no-deps --no-build-isolation /src" in installs[1]
    assert re.match(r"python:3\.1[1-9]-slim$", only(dockerfile, "FROM"))


def test_the_image_runs_as_an_unprivileged_user(dockerfile: list[tuple[str, str]]) -> None:
    user = only(dockerfile, "USER")
    assert user.isdecimal()
    assert int(user) > 0
    instructions = [instruction for instruction, _ in dockerfile]
    assert instructions.index("USER") > max(i for i, name in enumerate(instructions) if name in {"RUN", "COPY"})


def test_the_image_can_be_stopped_and_reached(dockerfile: list[tuple[str, str]]) -> None:
    assert only(dockerfile, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(only(dockerfile, "ENTRYPOINT")) == ["treadle"]
    assert json.loads(only(dockerfile, "CMD")) == ["serve"]
    ours = " ".join(argument for instruction, argument in dockerfile if instruction == "ENV")
    assert "PYTHONUNBUFFERED=1" in ours
    assert "HOST=0.0.0.0" in ours


def test_every_copied_path_exists_and_is_not_ignored(dockerfile: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    sources = {source for name, argument in dockerfile if name == "COPY" for source in argument.split()[:-1]}
    assert "*" in ignored
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)
    # The package reads these two from the folder beside it.
    assert {"sql", "migrations"} <= sources
    assert not any(fnmatch(secret, pattern) for secret in (".env", ".treadle", ".venv", ".git") for pattern in let_in)


# Health checks


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200
    asked: list[str] = []  # noqa: RUF012 - one server a test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    Answer.asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


HEALTH_CHECK = """
import os, pathlib
from service.local import health_check
from service.local.health_check import check
health_check.TIMEOUT_SECONDS = 60.0  # a busy machine may need more than the three seconds of the product
check(pathlib.Path({!r}), os.environ)
"""


@pytest.mark.parametrize("command", ["work", "migrate", "check", "follow"])
def test_a_container_that_serves_no_port_is_healthy(command: str, tmp_path: Path) -> None:
    process = tmp_path / "cmdline"
    process.write_bytes(f"/opt/treadle/bin/python\0/opt/treadle/bin/treadle\0{command}\0".encode())
    check(process, {"PORT": "1"})  # nothing answers there


@pytest.mark.parametrize("where", ["image", "compose"])
def test_health_checks_tell_healthy_from_unhealthy(
    where: str,
    services: dict[str, Any],
    dockerfile: list[tuple[str, str]],
    server: http.server.HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if where == "image":
        command = json.loads(only(dockerfile, "HEALTHCHECK").partition("CMD ")[2])
        assert command == ["python", "-m", "service.local.health_check"]
        path = "/health/live"
        process = tmp_path / "cmdline"
        process.write_bytes(b"/sbin/docker-init\0--\0treadle\0serve\0")
        code = HEALTH_CHECK.format(str(process))
    else:
        [kind, *command] = services["api"]["healthcheck"]["test"]
        assert kind == "CMD"
        path = "/health/ready"
        assert command[:2] == ["python", "-c"]
        assert "timeout=3" in command[2]
        code = command[2].replace(":8000/", f":{server.server_port}/").replace("timeout=3", "timeout=60")

    def exit_code() -> int:
        environment = {"PORT": str(server.server_port), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, timeout=120, check=False
        ).returncode

    monkeypatch.setattr(Answer, "status", 200)
    assert exit_code() == 0
    monkeypatch.setattr(Answer, "status", 503)
    assert exit_code() != 0
    assert Answer.asked == [path, path]
