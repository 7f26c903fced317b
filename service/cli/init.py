"""Write a first project: an agent, its test, and the settings of the folder."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from service.errors import TreadleError
from service.terminal import visible_line

AGENT = '''"""A first agent. AGENTS in the file .env names this module."""

from treadle import Context, agent


@agent("greeter", timeout=60)
async def greeter(context: Context, name: str) -> str:
    """Greets by name, word by word."""
    greeting = await context.step("greeting", lambda: f"Hello, {name}!")  # no later attempt runs it again
    for word in greeting.split():
        await context.emit(f"{word} ")
    return greeting
'''

TEST = '''"""The fixture treadle_run has a real PostgreSQL and a worker; FakeContext needs neither."""

import asyncio

from my_agents import greeter

from treadle.testing import FakeContext


def test_it_greets(treadle_run):
    answer = treadle_run.sync(greeter, "Ada", thread_id="first")
    assert (answer.state, answer.result) == ("completed", "Hello, Ada!")
    assert answer.text == "Hello, Ada! "


def test_it_greets_without_a_database():
    context = FakeContext()
    assert asyncio.run(greeter(context, "Ada")) == "Hello, Ada!"
    assert context.text == "Hello, Ada! "
'''

SETTINGS = """# Settings for the commands of treadle that run in this folder. Variables of the environment win.
# It may hold keys: keep it out of version control.

AGENTS=my_agents
# DEFAULT_AGENT=greeter
# PORT=8000
# WORKERS=1

# With a key, the agents `claude` or `openai` answer, and the agents that you make with claude_agent or openai_agent.
# ANTHROPIC_API_KEY=
# OPENAI_API_KEY=
"""

FILES = {"my_agents.py": AGENT, "test_my_agents.py": TEST, ".env": SETTINGS}
PRIVATE = frozenset({".env"})


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
def init(folder: Path) -> None:
    """Write a first agent, its test, and a file .env with settings into FOLDER (this one, if none is named).

    It overwrites nothing: with one of these files there, it writes none.

    \b
    Examples:
      treadle init
      treadle init my-project
    """
    if there := [name for name in FILES if os.path.lexists(folder / name)]:
        raise TreadleError(f"{folder / there[0]} is there already, and nothing was written: name another folder.")
    _write(folder)
    enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    for line in (
        f"Written: {', '.join(str(folder / name) for name in FILES)}",
        "",
        "Next:",
        f"  {enter}{_program('pytest')} test_my_agents.py   # needs pip install 'treadle[testing]'",
        f"  {enter}{_program('treadle')} up",
        f"  {enter}{_program('treadle')} send Ada --agent greeter --follow   # in a second terminal",
    ):
        click.echo(visible_line(line))


def _write(folder: Path) -> None:
    """Write all files, or none of them."""
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            mode = 0o600 if name in PRIVATE else 0o666
            with open(
                os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
            ) as file:
                written.append(folder / name)
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise TreadleError(f"{folder} cannot be written: {error.strerror}.") from error


def _program(name: str) -> str:
    """How a shell finds a program of this installation."""
    return name if shutil.which(name) else shlex.quote(str(Path(sys.executable).with_name(name)))
