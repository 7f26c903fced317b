"""Docs that cannot rot: what they list is what there is, and what they show runs as written."""

import asyncio
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import typing
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest
from litestar import Response

from service.agents import registry
from service.api.app import ROUTES
from service.cli import main
from service.config import Settings
from service.db.pool import Connection
from service.events.model import RESERVED
from service.local.postgres import Embedded
from tests.conftest import StartApi, StartWorker

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
HTTP = ROOT / "docs" / "http.md"
OPERATIONS = ROOT / "docs" / "operations.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

HEADING = re.compile(r"^(#+) (.+)$")
METHODS = "GET|POST|PUT|PATCH|DELETE"


class Block(NamedTuple):
    """A fenced block of a page."""

    heading: str  # the one above it
    language: str
    line: int  # of its first line, from 1
    text: str


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, in order; of one language, or all."""
    found, heading, opened = [], "", None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if opened is None:
                opened = (line[3:].strip(), number)
            else:
                text = "\n".join(lines[opened[1] : number - 1]) + "\n"
                found.append(Block(heading, opened[0], opened[1] + 1, text))
                opened = None
        elif opened is None and (match := HEADING.match(line)):
            heading = match[2]
    assert opened is None, f"{page.name}: the block of line {opened} is not closed"
    return [block for block in found if language is None or block.language == language]


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    lines, level = [], 0
    for line in page.read_text(encoding="utf-8").splitlines():
        match = HEADING.match(line)
        if match and level and len(match[1]) <= level:
            break
        if match and match[2] == heading:
            level = len(match[1])
        elif level:
            lines.append(line)
    assert level, f"{page.name} has no heading {heading!r}"
    return "\n".join(lines)


def rows(text: str) -> dict[str, list[str]]:
    """The tables of a text: cells by the `name` in the first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].startswith("`")}


def headings(page: Path) -> list[str]:
    """The headings of a page, those in code left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [match[2] for line in text.splitlines() if (match := HEADING.match(line))]


def anchor(heading: str) -> str:
    """The anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# What is listed


def shown(value: Any) -> str:
    """A default, as the configuration table writes it."""
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_configuration_table_has_every_setting_with_its_default() -> None:
    table = rows(section(README, "Configuration"))
    documented = {name: cells[0] for name, cells in table.items()}
    fields = msgspec.structs.fields(Settings)
    assert documented == {field.name.upper(): shown(field.default) for field in fields}
    assert all(cells[-1] for cells in table.values())


def routes() -> dict[str, Any]:
    """Every route, as `METHOD /path/{parameter}`, with its handler."""
    return {
        f"{method} {re.sub(r':[a-z]+}', '}', path)}": handler
        for handler in ROUTES
        for method in handler.http_methods - {"OPTIONS"}
        for path in handler.paths
    }


def test_every_route_has_its_heading() -> None:
    documented = [heading for heading in headings(HTTP) if re.match(rf"({METHODS}) /", heading)]
    assert sorted(documented) == sorted(routes())


def test_the_readme_lists_every_route() -> None:
    listed = re.findall(rf"`((?:{METHODS}) /[^`]*)`", section(README, "HTTP"))
    assert sorted(listed) == sorted(routes())


@pytest.mark.parametrize("block", blocks(HTTP, "json"), ids=lambda block: block.heading)
def test_examples_have_the_fields_of_the_answers(block: Block) -> None:
    answer = typing.get_type_hints(routes()[block.heading].fn)["return"]
    if typing.get_origin(answer) is Response:
        [answer] = typing.get_args(answer)
    example, written = msgspec.json.decode(block.text, type=answer), msgspec.json.decode(block.text)
    if not isinstance(example, list):
        example, written = [example], [written]
    assert example
    for item, fields in zip(example, written, strict=True):
        assert set(fields) == set(item.__struct_fields__)


async def test_every_view_is_in_the_tour(sql: Connection) -> None:
    [listed] = re.findall(r"^Seven views:.*?\n\n", (ROOT / "docs" / "sql.md").read_text(encoding="utf-8"), re.M | re.S)
    views = await sql.fetch("select viewname from pg_views where schemaname = 'treadle'")
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(row["viewname"] for row in views)


def test_the_warnings_worth_an_alert_are_what_is_logged() -> None:
    [listed] = re.findall(r"^.*?Warnings worth an alert:(.*?)\n\n", OPERATIONS.read_text(encoding="utf-8"), re.M | re.S)
    code = " ".join(page.read_text(encoding="utf-8") for page in ROOT.glob("service/**/*.py"))
    warnings = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", listed)]
    assert [words for words in warnings if words not in code] == []
    assert len(warnings) > 5


def test_every_event_of_the_service_is_documented() -> None:
    table = rows(section(HTTP, "Streams"))
    assert set(table) == RESERVED | {"chunk"}


def commands(group: click.Group, prefix: str = "treadle") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{prefix} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


def test_every_command_is_mentioned() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [command for command in commands(main) if command not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name} links to {target}, which is not there"
        if fragment:
            assert fragment in map(anchor, headings(file)), f"{page.name} links to {target}, which has no such heading"


def test_every_decision_is_listed() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "adr").glob("*.md"):
        [title, *_] = headings(page)
        assert f"[{title}](adr/{page.name})" in text
        assert [*headings(page)[1:]] == ["Context", "Decision", "Consequences"]


def test_the_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert any(heading.split()[0] == version for heading in headings(ROOT / "CHANGELOG.md"))


def test_code_comes_early_in_the_readme() -> None:
    assert blocks(README)[0].line <= 25


# What is shown: SQL


async def psql(dsn: str, page: Path, found: list[Block]) -> str:
    """Run blocks in one session of psql, as they are written; returns what it says."""
    script = "".join(f"\\echo == {page.name}, line {block.line}\n{block.text}\n" for block in found)
    program = Embedded(Path("anywhere")).binary("psql")
    process = await asyncio.create_subprocess_exec(
        *(program, "-X", "-v", "ON_ERROR_STOP=1", dsn),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(script.encode()), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_sql_runs_as_written(dsn: str, agents: Callable[..., Awaitable[None]]) -> None:
    await agents()
    page = ROOT / "docs" / "sql.md"
    said = await psql(dsn, page, blocks(page, "sql"))
    for part in ("cancelled", "There is no message", "I do not do urgent things.", "default_dlq"):
        assert part in said


async def test_the_sql_of_the_readme_runs_as_written(dsn: str, agents: Callable[..., Awaitable[None]]) -> None:
    await agents()
    said = await psql(dsn, README, blocks(README, "sql"))
    assert '"Thank the buyer of a red bicycle."' in said


# What is shown: agents

# agent: (message, metadata), (state, result or error)
ASKED: dict[str, tuple[Any, str, Any]] = {
    "shout": ("hello there", "completed", "HELLO THERE"),
    "recall": ("one", "completed", "one"),
    "total": ({"customer": "Ada", "cents": [250, 1200]}, "completed", {"customer": "Ada", "total_cents": 1450}),
    "patient": ("wait", "completed", "wait"),
    "fussy": ("now", "failed", "Say please."),
    "count": ("3", "completed", "I counted to 3."),
    "report": ("rain", "completed", "2 things about rain"),
    "survey": ("one two", "completed", "ONE TWO"),
    "tally": ("one two", "completed", 2),
    "warm": ("one", "completed", 1),
}


async def test_the_agents_shown_answer(
    start_worker: StartWorker,
    start_api: StartApi,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, page in (("shown_in_docs", ROOT / "docs" / "agents.md"), ("shown_in_readme", README)):
        tmp_path.joinpath(f"{name}.py").write_text("\n".join(block.text for block in blocks(page, "python")))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = registry.load(msgspec.structs.replace(settings, agents=("shown_in_docs", "shown_in_readme")))
    modules = [importlib.import_module(name) for name in ("shown_in_docs", "shown_in_readme")]
    names = {row["agent"] for row in found.rows()} - {"echo", "claude", "resolver", "clarifier"}
    assert names == set(ASKED)

    await start_worker(*(agent for name in names if (agent := found.get(name))))
    api = await start_api()
    for name, (message, state, said) in ASKED.items():
        status = await api.settled(await api.submit(message, agent=name, thread_id=name))
        assert (status["state"], status["result"] if state == "completed" else status["error"]) == (state, said), status
    again = await api.settled(await api.submit("two", agent="recall", thread_id="recall"))
    assert (again["result"], again["usage"]) == ("one / two", {"turns": 1})
    polite = await api.settled(await api.submit("please", agent="fussy"))
    assert (polite["result"], polite["attempt"]) == ("Very well.", 2)
    for module in modules:
        monkeypatch.delitem(sys.modules, module.__name__)


# What is shown: commands


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(port: int) -> Iterator[dict[str, str]]:
    """A shell's environment with a TREADLE_HOME of its own, and no other setting of Treadle's."""
    home = Path(tempfile.mkdtemp(prefix="treadle-docs-"))
    home.chmod(0o755)  # started by root, PostgreSQL runs as somebody else
    foreign = {field.name.upper() for field in msgspec.structs.fields(Settings)} | {"TREADLE_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    yield kept | {"TREADLE_HOME": str(home), "PORT": str(port), "SHUTDOWN_GRACE": "5"}
    server = Embedded(home)
    server.stop()
    shutil.rmtree(server.place.folder, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def up(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A running `treadle up`, which is what `make up` ends in."""
    own = {
        name: value for name, value in environment.items() if not name.startswith("MAKE")
    }  # not those of `make test`
    dry = subprocess.run(
        ["make", "-n", "up"], cwd=ROOT, env=own, check=True, capture_output=True, text=True, timeout=20
    )
    assert dry.stdout.splitlines()[-1] == "exec .venv/bin/treadle up"
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
        deadline = time.monotonic() + 60
        while "Treadle runs" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
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
    """The types of the events in what curl printed; how often one was told to wait is chance."""
    return [event for event in re.findall(r"^event: (\w+)$", output, flags=re.M) if event != "waiting"]


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="the commands need bash and curl")
@pytest.mark.usefixtures("up")
def test_the_commands_of_the_readme_run_as_written(environment: dict[str, str], port: int) -> None:
    def script(block: Block) -> str:
        return block.text.replace("localhost:8000", f"localhost:{port}")

    start, quick, demo = blocks(README, "sh")
    assert start.text == "make up\n"

    answer = run(script(quick), environment)
    shown = next(block for block in blocks(README, "text") if block.heading == quick.heading)
    ignored = re.compile(r'"completed_at": "[^"]*"|event: waiting\n.*\n\n')  # the latter only where the machine is slow
    assert ignored.sub("", answer).strip() == ignored.sub("", shown.text).strip()

    answer = run(script(demo), environment)
    shown = next(block for block in blocks(README, "text") if block.heading == demo.heading)
    story = [event for event in events(answer) if event != "chunk"]
    assert story == ["queued", "started", "retry", "started", "done"]
    assert [event for event in events(shown.text) if event != "chunk"] == story[1:]
    assert '"error": "The worker was lost."' in answer
    assert '"pid":' in answer
    final = answer.rpartition("event: retry")[2]
    assert "".join(re.findall(r'"chunk": "([^"]*)"', final)) == "A worker may die but the answer does not"

    # The examples of docs/http.md, in one shell.
    answer = run("\n".join(script(block) for block in blocks(HTTP, "sh")), environment)
    assert answer.count('"message_id":') == 3
    assert events(answer) == ["queued", "started", "chunk", "chunk", "chunk", "done", "chunk", "chunk", "done"]

    sent = run(".venv/bin/treadle send hello --follow", environment)
    assert sent == "hello\n"
