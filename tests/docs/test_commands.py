"""The shell commands of README.md, docs/http.md and docs/webhooks.md run as written, against a real `treadle up`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.config import Settings
from service.local.private_postgres import PrivatePostgres
from tests.support.documents import DOCS, HTTP, README, Block, blocks
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip
from tests.support.waiting import LIMIT_SECONDS, wait_until

UNTIL_IT_RUNS = "until curl -s localhost:8000/messages/$id/events | grep -q chunk; do sleep 0.1; done\n"
PATIENCE = {"WORKER_TIMEOUT": "60"}  # no living worker counts as lost, however busy the machine is


@pytest.fixture(autouse=True)
def shell() -> None:
    for program in ("bash", "curl", "make"):
        require_or_skip(shutil.which(program), program)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def environment(port: int) -> Iterator[dict[str, str]]:
    """A shell's environment with a TREADLE_HOME of its own and without other settings that a shell may have."""
    home = Path(tempfile.mkdtemp(prefix="treadle-docs-"))
    home.chmod(0o755)  # if root starts it, PostgreSQL runs as another user
    foreign = {field.name.upper() for field in msgspec.structs.fields(Settings)} | {"TREADLE_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    yield kept | {"TREADLE_HOME": str(home), "PORT": str(port), "SHUTDOWN_GRACE": "5", "TREADLE_KEY": ""} | PATIENCE
    server = PrivatePostgres(home)
    server.stop()
    shutil.rmtree(server.place.folder, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def up(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A running `treadle up`: the command that `make up` executes last."""
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("treadle"), "up"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Treadle runs" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(script: str, environment: dict[str, str]) -> str:
    """Run commands in a shell, as a person in the checkout would; returns what they print."""
    command = ["bash", "-eu", "-o", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def events(output: str) -> list[str]:
    """The event types in curl's output, without `waiting`: how many of these a stream has depends on timing. A stream
    may follow the JSON of a submit on the same line."""
    return [event for event in re.findall(r"(?:^|})event: (\w+)$", output, flags=re.M) if event != "waiting"]


def on_port(block: Block, port: int) -> str:
    return block.text.replace("localhost:8000", f"localhost:{port}")


def on_a_slow_machine(commands: Block) -> Block:
    """The commands that kill a worker: they wait until the message runs, and it runs on for a while after that."""
    text = commands.text
    for written, here in (("sleep 2\n", UNTIL_IT_RUNS), ('"delay_ms": 500', '"delay_ms": 1000')):
        assert written in text
        text = text.replace(written, here)
    return commands._replace(text=text)


def example(heading: str) -> tuple[Block, Block]:
    """The commands under a heading of the README, and the output that it shows for them."""
    [commands] = [block for block in blocks(README, "sh") if block.heading == heading and "curl" in block.text]
    [shown] = [block for block in blocks(README, "text") if block.heading == heading]
    return commands, shown


def test_make_up_executes_treadle_up() -> None:
    # make hands its own variables to its children: those of `make test` must not reach this one
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    dry = subprocess.run(
        ["make", "-n", "up"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert dry.stdout.splitlines()[-1] == "exec .venv/bin/treadle up"
    assert "make up" in blocks(README, "sh")[0].text.splitlines()[0]


@pytest.mark.usefixtures("up")
def test_the_commands_run_as_written(environment: dict[str, str], port: int) -> None:
    commands, shown = example("Quick start")
    answer = run(on_port(commands, port), environment)
    ignored = re.compile(r'"completed_at": "[^"]*"|event: waiting\n.*\n\n')  # the latter only on a slow machine
    assert ignored.sub("", answer).strip() == ignored.sub("", shown.text).strip()

    commands, shown = example("Kill a worker in the middle of a stream")
    answer = run(on_port(on_a_slow_machine(commands), port), environment)
    story = [event for event in events(answer) if event != "chunk"]
    assert story == ["queued", "started", "retry", "started", "done"]
    assert [event for event in events(shown.text) if event != "chunk"] == story[1:]
    assert '"error": "The worker was lost."' in answer
    assert '"pid":' in answer
    final = answer.rpartition("event: retry")[2]
    assert "".join(re.findall(r'"chunk": "([^"]*)"', final)) == "A worker may die but the answer does not"

    answer = run("\n".join(on_port(block, port) for block in blocks(HTTP, "sh")), environment)
    assert answer.count('"message_id":') == 3
    assert events(answer) == ["queued", "started", "chunk", "chunk", "chunk", "done", "chunk", "chunk", "done"]

    commands_of_page = "\n".join(on_port(block, port) for block in blocks(DOCS / "webhooks.md", "sh"))
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    answer = run(commands_of_page, environment | {"PATH": path})
    assert answer.count("whsec_") == 2  # that of the callbacks, and that after the rotation
    assert answer.count('"message_id":') == 1

    sent = run(".venv/bin/treadle send hello --follow", environment)
    assert sent == "hello\n"
