"""`treadle init` writes a project that works as it is, `treadle up --reload` follows its changes, and the file .env is
read."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from service.cli import env_file
from service.local.children import Children
from service.local.reload import Reload
from tests.support.api_client import Client
from tests.support.cli_runner import Cli, error_sentence
from tests.support.databases import patient
from tests.support.gates import open_gate
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.waiting import until

PROGRAMS = Path(sys.executable).parent

WAITS = """
import asyncio
from treadle import agent

@agent("greeter", max_attempts=1, max_losses=1)
async def greeter(context, name):
    if name == "Eve":
        await context.emit("waiting")
        await asyncio.to_thread(lambda: open("go on").close())  # until the test opens it
    return f"At last, {name}!"
"""
IMPORTS = """
from greetings import greeting
from treadle import agent

@agent("greeter")
async def greeter(context, name):
    return greeting + name
"""


def save(file: Path, text: str) -> None:
    """As editors do: at once."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def start(folder: Path, *command: str, **settings: str) -> asyncio.subprocess.Process:
    """A program of this installation in a folder, with nothing in its environment but these settings."""
    return await asyncio.create_subprocess_exec(
        PROGRAMS / command[0],
        *command[1:],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@pytest.mark.long
async def test_a_first_project_passes_its_test_and_runs(cli_without_database: Cli, dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    done = await cli_without_database("init", str(folder))
    assert done.exit_code == 0, done.output
    assert (
        len(re.findall(r"^  cd '.*/my project' && .*(?:pytest test_my|treadle up|treadle send)", done.output, re.M))
        == 3
    )
    assert sorted(os.listdir(folder)) == [".env", "my_agents.py", "test_my_agents.py"]
    assert (folder / ".env").stat().st_mode & 0o077 == 0

    port, module = free_port(), folder / "my_agents.py"
    settings = {"DATABASE_URL": patient(dsn), "PORT": str(port), "TREADLE_HOME": str(tmp_path / "home")}
    settings |= {"SHUTDOWN_GRACE": "600"}  # the replaced worker ends its message, however long the test takes
    up = await start(folder, "treadle", "up", "--reload", **settings)
    assert up.stdout is not None

    async def said(words: str) -> str:
        assert up.stdout is not None
        return (await asyncio.wait_for(up.stdout.readuntil(words.encode()), 60)).decode()

    async def result(name: str) -> str:
        return str((await client.settled(await client.submit(name, agent="greeter")))["result"])

    try:
        test = await start(folder, "pytest", "-q", "-p", "no:cacheprovider", "test_my_agents.py")
        output, _ = await test.communicate()
        assert b"2 passed" in output, output.decode()
        await said("Treadle runs")
        async with Client(f"http://127.0.0.1:{port}") as client:
            assert await result("Ada") == "Hello, Ada!"
            os.mkfifo(folder / "go on")
            save(module, WAITS)
            await said("my_agents.py has changed: the workers are replaced")
            await until(lambda: client.get("/workers"), lambda answer: len(answer.json()) == 1)  # the old one has gone
            in_flight = await client.submit("Eve", agent="greeter")
            events = f"/messages/{in_flight}/events"
            await until(lambda: client.get(events), lambda answer: '"chunk"' in answer.text)

            save(module, IMPORTS)
            line = (await said("The workers go on with the agents that they have.\n")).splitlines()[-1]
            assert line.startswith(
                "AGENTS: the module my_agents cannot be imported: No module named 'greetings' (my_agents.py, line "
            )
            assert (await client.settled(await client.submit("x", agent="echo")))["result"] == "x"

            save(folder / "greetings.py", "greeting = 'Good day, '")
            await said("the workers are replaced")
            await until(lambda: result("Ada"), lambda found: found == "Good day, Ada")
            open_gate(folder / "go on")
            status = await client.settled(in_flight)
            assert (status["result"], status["attempt"]) == ("At last, Eve!", 1)
            save(folder / "greetings.py", "greeting = 'Good evening, '")
            await said("greetings.py has changed: the workers are replaced")
            await until(lambda: result("Ada"), lambda found: found == "Good evening, Ada")
    finally:
        open_gate(folder / "go on")  # also after a failure
        up.send_signal(signal.SIGTERM)
        await up.communicate()
    assert up.returncode == 0


async def test_a_process_that_cannot_be_started_ends_no_workers(tmp_path: Path) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    children = Children({}, {"agents": [str(tmp_path / "missing")]}, 0, patience_seconds=1)
    following = asyncio.create_task(Reload(children, said.put_nowait).run(["worker-1"]))
    told = asyncio.create_task(said.get())
    await asyncio.wait({following, told}, return_when=asyncio.FIRST_COMPLETED)
    assert (told.done(), following.done()) == (True, False)
    assert re.search("cannot be started: .*The workers go on with the agents that they have", told.result())
    following.cancel()
    await asyncio.wait({following})
    await children.stop(asyncio.Event())


LOADS_WHAT_CHANGES = """
import pathlib
agents = pathlib.Path("agents.py")
if not agents.exists():
    agents.touch()  # by its author, after this process has read it
print('{"files": ["' + str(agents.resolve()) + '"]}')
"""


async def test_a_change_during_the_first_load_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: asyncio.Queue[str] = asyncio.Queue()
    children = Children(os.environ, {"agents": (sys.executable, "-c", LOADS_WHAT_CHANGES)}, 0, patience_seconds=1)
    following = asyncio.create_task(Reload(children, said.put_nowait).run([]))
    async with asyncio.timeout(60):
        assert await said.get() == "agents.py has changed: the workers are replaced"
    following.cancel()
    await asyncio.wait({following})
    await children.stop(asyncio.Event())


WORKER = """
import os, signal, sys
from service.local.parent_watch import readiness
tell_ready = readiness(os.environ)
if os.path.exists("broken"):
    sys.exit(3)
open("begun", "w").write(str(os.getpid()))  # a pipe: until the test reads it
open("go on").read()  # until the test opens it
tell_ready()
signal.pause()
"""


async def test_an_old_worker_goes_once_the_new_one_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Although the new one ends, or takes its time, after a trial that went well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for pipe in ("begun", "go on"):
        os.mkfifo(pipe)
    with (tmp_path / "lock").open("w") as lock:
        commands = {"work": (sys.executable, "-c", WORKER)}
        children = Children(os.environ, commands, lock.fileno(), patience_seconds=60)
        may_start = asyncio.Event()
        may_start.set()
        keeping = asyncio.create_task(children.keep("worker-1", "work", may_start))
        old = int(await asyncio.to_thread(Path("begun").read_text))
        await asyncio.to_thread(Path("go on").write_text, "")

        (tmp_path / "broken").touch()
        assert await children.replace(["worker-1"]) is False
        assert re.search(rf"ended with exit status 3 before it was ready; .*\(pid {old}\) goes on", caplog.text)
        (tmp_path / "broken").unlink()

        replacing = asyncio.create_task(children.replace(["worker-1"]))
        new = int(await asyncio.to_thread(Path("begun").read_text))
        os.kill(old, 0)  # it is there: not even its end has been seen
        assert not replacing.done()
        await asyncio.to_thread(Path("go on").write_text, "")
        assert await replacing is True
        await until(lambda: Path(f"/proc/{old}").exists(), lambda exists: not exists)
        assert new != old
        keeping.cancel()
        await asyncio.wait({keeping})
        await children.stop(asyncio.Event())


async def test_nothing_is_overwritten(cli_without_database: Cli, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1")
    said = error_sentence(await cli_without_database("init", str(tmp_path)))
    assert said.startswith(f"{tmp_path}/.env is there already, and nothing was written")
    assert os.listdir(tmp_path) == [".env"]
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_sentence(await cli_without_database("init", str(tmp_path / "file" / "below")))


async def test_the_env_file_of_the_working_folder_is_read(
    cli_without_database: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    file = tmp_path / ".env"
    monkeypatch.setattr(env_file, "FILE", Path(".env"))
    for name in ("DATABASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "")  # so that the end of the test undoes what the file sets
    monkeypatch.chdir(tmp_path)
    address = "postgresql://a@b/c"
    file.write_text(f"\ufeff# mine\nexport DATABASE_URL='{address}' # there\nANTHROPIC_API_KEY=\n", encoding="utf-8")
    assert (await cli_without_database("dsn")).stdout == f"{address}\n"
    other = {"DATABASE_URL": "postgresql://a@b/other"}
    assert (await cli_without_database("dsn", **other)).stdout == "postgresql://a@b/other\n"
    file.write_text("A=1\n\nthis is no setting\n")
    assert (
        error_sentence(await cli_without_database("dsn"))
        == "Line 3 of the file .env of this folder must be NAME=value."
    )
    monkeypatch.chdir(tmp_path / "below")
    assert (await cli_without_database("dsn", **other)).exit_code == 0
    (tmp_path / "below" / ".env").mkdir()
    assert (await cli_without_database("dsn", **other)).exit_code == 0
