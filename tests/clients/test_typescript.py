"""clients/typescript: its generated files are fresh, and it makes every call in Node.

`RENEW_TYPES=1 make test ARGS=tests/clients/test_typescript.py` writes the generated files.
"""

import asyncio
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from faults.proxy import Proxy
from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.access import CLOSED, ROOT_KEY
from tests.support.api_client import Client
from tests.support.browser import open_browser
from tests.support.documents import DOCS, blocks
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.programs import node, node22, run_program, tool
from tests.support.repository import ROOT
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.workers import lose_worker

PACKAGE = ROOT / "clients/typescript"
NAMED = re.compile(r'Schemas\["(\w+)"\]')
REFERENCE = re.compile(r'"#/components/schemas/(\w+)"')


def used_schemas(description: dict[str, Any]) -> dict[str, Any]:
    """The description with only the schemas that the client names, so that other routes do not make it stale."""
    sources = [path for path in PACKAGE.glob("src/*.ts") if path.name != "openapi.ts"]
    wanted = {name for path in sources for name in NAMED.findall(path.read_text(encoding="utf-8"))}
    schemas, found = description["components"]["schemas"], dict[str, Any]()
    while wanted:
        name = wanted.pop()
        found[name] = {key: value for key, value in schemas[name].items() if key != "examples"}
        wanted |= set(REFERENCE.findall(json.dumps(found[name]))) - found.keys()
    components = {"schemas": dict(sorted(found.items()))}
    return {"openapi": description["openapi"], "info": description["info"], "paths": {}, "components": components}


async def test_the_generated_files_are_fresh(api: Client, tmp_path: Path) -> None:
    description = used_schemas((await api.get("/openapi.json")).json())
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    shutil.copytree(PACKAGE / "src", tmp_path / "src")
    for name in ("tsconfig.json", "package.json"):
        shutil.copy(PACKAGE / name, tmp_path)
    await run_program(
        tool("node/node_modules/.bin/openapi-typescript"), "openapi.json", "-o", "src/openapi.ts", folder=tmp_path
    )
    await run_program(tool("node/node_modules/.bin/tsc"), "-p", ".", folder=tmp_path)
    made = {path: (tmp_path / path).read_text() for path in (Path("src/openapi.ts"), *_files(tmp_path, "lib"))}
    if os.environ.get("RENEW_TYPES"):
        shutil.rmtree(PACKAGE / "lib", ignore_errors=True)
        for path, text in made.items():
            (PACKAGE / path).parent.mkdir(exist_ok=True)
            (PACKAGE / path).write_text(text)
    kept = {path: (PACKAGE / path).read_text() for path in (Path("src/openapi.ts"), *_files(PACKAGE, "lib"))}
    assert kept == made, "RENEW_TYPES=1 make test ARGS=tests/clients/test_typescript.py writes these files."


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(path.relative_to(folder) for path in (folder / name).iterdir())


async def test_it_makes_every_call_in_node(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent, sql: Connection
) -> None:
    program = node()  # before a server listens, which would be left
    # A remote worker tells of a heartbeat without an answer after a third of this time, and the program expects none.
    patient = {"worker_timeout": 3 * LIMIT_SECONDS}
    await start_worker(echo, script.agent, **patient)
    api = await start_api(**patient)
    proxy = Proxy(api.base_url.port or 0)
    await proxy.start()
    process = await asyncio.create_subprocess_exec(
        *(program, str(Path(__file__).with_name("typescript") / "calls.mjs"), (PACKAGE / "lib").as_uri()),
        *(str(api.base_url).rstrip("/"), f"http://127.0.0.1:{proxy.port}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said, long, words = "", "", iter([*"abcdef", None])
        async for line in process.stdout:
            said += line.decode()
            if line.startswith(b"long "):
                long = line.decode().split()[1]
            if line == b"cut\n":
                proxy.cut()
                script.say(long, *itertools.islice(words, 1))  # so that no connection brings all events
                process.stdin.write(b"cut\n")
        assert (await process.wait(), (await process.stderr.read()).decode()) == (0, "")
        assert said.endswith("done\n")
        assert proxy.cuts >= 2
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await proxy.close()
    await assert_consistent(sql)


async def test_a_chat_in_node_22_outlasts_refused_connections_and_refused_inputs(
    start_api: StartApi, start_worker: StartWorker
) -> None:
    program = node22()  # before a server listens, which would be left
    await start_worker()
    api = await start_api(**CLOSED, max_body_bytes=1_000_000)
    proxy = Proxy(api.base_url.port or 0)
    await proxy.start()
    proxy.refuse()
    process = await asyncio.create_subprocess_exec(
        *(program, str(Path(__file__).with_name("typescript") / "chat.mjs"), (PACKAGE / "lib").as_uri()),
        *(f"http://127.0.0.1:{proxy.port}", ROOT_KEY, "1000000"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"refused\n"
            await proxy.admit()
            said = await process.communicate()
        assert (said, process.returncode) == ((b"done\n", b""), 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await proxy.close()


CHAT = """async () => {
  const { Treadle } = await import("/client/index.js");
  const treadle = new Treadle();
  const chat = treadle.chat("chat", { agent: "echo" });
  const slowly = { metadata: { delay_ms: 60 } };
  const sent = [await chat.send("one two", slowly)];
  const told = [];
  for await (const event of chat) {
    told.push([event.messageId, event.id, event.type]);
    await cut();
    if (event.type === "done" && sent.length === 1) sent.push(await chat.send("three", slowly));
    else if (event.type === "done") break;
  }
  const refusals = [await chat.send("x", { agent: "none" }).catch(({ message }) => message)];
  const later = treadle.chat("chat", { lastId: chat.lastId - 1, log: chat.log });
  let last;
  for await (last of later) break;
  for (const one of [later, chat]) one.close();
  refusals.push(await chat.send("x").catch(({ message }) => message));
  refusals.push(await treadle.chat("a/b").send("x").catch(({ message }) => message));
  return { sent, told, last: last.data.result, refusals };
}"""
PAGE = """async () => {
  const { Treadle } = await import("/client/index.js");
  const treadle = new Treadle();
  const { message_id: id } = await treadle.submit("one two three", { agent: "echo", metadata: { delay_ms: 20 } });
  let said = "";
  let last;
  for await (const event of treadle.stream(id)) {
    last = event.id;
    said += event.type === "chunk" ? event.data.chunk : "";
    if (said) break; // the page goes away
  }
  for await (const event of treadle.stream(id, { after: last })) said += event.type === "chunk" ? event.data.chunk : "";
  const { createHooks } = await import("/client/react.js");
  return [said, await treadle.run("again", { agent: "echo" }), typeof createHooks({}).useMessage];
}"""


async def test_it_runs_in_a_browser(api_with_worker: Client) -> None:
    """A stream, and a chat whose socket is cut after each event."""
    proxy = Proxy(api_with_worker.base_url.port or 0)
    await proxy.start()

    async def serve(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        await route.fulfill(path=PACKAGE / "lib" / name, content_type="text/javascript")

    try:
        async with open_browser(bypass_csp=True) as browser:
            await browser.route("**/client/*.js", serve)
            await browser.expose_function("cut", proxy.cut)
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{proxy.port}/health")
            assert await page.evaluate(PAGE) == ["one two three", "again", "function"]
            chat = await page.evaluate(CHAT)
    finally:
        await proxy.close()
    assert [number for _, number, _ in chat["told"]] == [str(number + 1) for number in range(len(chat["told"]))]
    assert list(dict.fromkeys(message for message, _, _ in chat["told"])) == chat["sent"]
    assert [kind for message, _, kind in chat["told"] if message == chat["sent"][0]] == [
        *("queued", "started", "chunk", "chunk", "done"),
    ]
    assert (chat["last"], len(chat["refusals"])) == ("three", 3)
    for refusal, words in zip(
        chat["refusals"], ("There is no agent 'none'", "closed", "thread_id must be"), strict=True
    ):
        assert words in refusal
    assert proxy.cuts > 1


HALF = """
import { Worker } from "%s/index.js";
const tell = async (context) => {
  for (const piece of ["0 ", "1 "]) await context.emit(piece);
  const told = await context.step("told", () => process.argv[3]);
  if (process.argv[3] === "hang") {
    console.log("half");
    await new Promise((resolve) => setTimeout(resolve, 600_000));
  }
  return told;
};
await new Worker({ tell }, { url: process.argv[2] }).run();
"""


async def test_a_killed_worker_is_replaced_and_the_stream_goes_on(
    start_api: StartApi, start_worker: StartWorker, sql: Connection, tmp_path: Path
) -> None:
    await start_worker()
    api = await start_api()
    (tmp_path / "worker.mjs").write_text(HALF % (PACKAGE / "lib").as_uri())

    async def start(how: str) -> asyncio.subprocess.Process:
        url = str(api.base_url).rstrip("/")
        command = (node(), str(tmp_path / "worker.mjs"), url, how)
        return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)

    gone, heir = await start("hang"), None
    try:
        await until(lambda: sql.fetchval("select exists (select from treadle.agents where agent = 'tell')"))
        message_id = await api.submit("x", agent="tell", thread_id="t")
        reading = asyncio.create_task(api.events(message_id))
        assert gone.stdout is not None
        assert await gone.stdout.readline() == b"half\n"
        holder = await sql.fetchval("select worker_id from treadle.leases")
        heir = await start("end")
        gone.kill()
        await gone.wait()
        await lose_worker(sql, holder)
        events = [event for event in await reading if event.id is not None]
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        story = [event.type for event in events if event.type != "chunk"]
        assert story == ["queued", "started", "step", "retry", "started", "done"]
        assert events[-1].data["result"] == "hang"  # the step of the first attempt
    finally:
        for process in (gone, heir):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
    await assert_consistent(sql)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which the package is installed, as `npm install` links it."""
    (tmp_path / "node_modules/@treadle").mkdir(parents=True)
    (tmp_path / "node_modules/@treadle/client").symlink_to(PACKAGE)
    return tmp_path


async def test_the_demo_runs(api_with_worker: Client, installed: Path) -> None:
    for path in (ROOT / "examples/typescript-client").glob("*.js*"):
        shutil.copy(path, installed)
    said = await run_program(node(), "demo.js", folder=installed, TREADLE_URL=str(api_with_worker.base_url))
    assert "the agent echo says: one two three\n" in said
    assert "THIS RAN IN YOUR PROGRAM" in said
    assert said.endswith("That was every call.\n")


async def test_the_page_runs_as_written(api_with_worker: Client, installed: Path) -> None:
    code = "\n".join(block.text for block in blocks(DOCS / "clients/typescript.md", "js"))
    address = str(api_with_worker.base_url).rstrip("/")
    as_node_18 = "delete globalThis.crypto; delete globalThis.WebSocket;\n"
    (installed / "page.mjs").write_text(as_node_18 + code.replace("http://localhost:8000", address))
    said = await run_program(node(), "page.mjs", folder=installed)
    [shown] = blocks(DOCS / "clients/typescript.md", "text")
    assert said == shown.text


def test_the_package_asks_for_nothing() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())
    assert package.keys() & {"dependencies", "devDependencies", "peerDependencies"} == set()
