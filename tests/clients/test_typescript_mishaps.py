"""What agents of a TypeScript worker return and throw that no server takes: each attempt ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.inputs import asked_input, give_input
from tests.support.programs import node
from tests.support.repository import ROOT
from tests.support.waiting import until

WORKER = """
import { Overloaded, RetryAfter, Worker } from "%s/index.js";
const text = (megabytes) => "x".repeat(megabytes * 1_000_000);
const deep = (levels) => Array.from({ length: levels }).reduce((inner) => [inner], []);
const odd = async (context, how) => {
  if (how === "bigint") return 10n;
  if (how === "no text") throw Object.create(null);
  if (how === "half a pair") throw new Error("a\\ud800b\\u0000");
  if (how === "event") await context.event("note", { n: 1n });
  if (how.startsWith("step")) {
    const result = how === "step, deep" ? deep(100_000) : how === "step, large" ? text(2) : text(21);
    await context.step("pay", () => result);
  }
  if (how === "result, huge") return text(21);
  if (how === "result, deep") return deep(500);
  if (how === "send") await context.send(text(2), { agent: "echo" });
  if (how === "send, unknown") await context.send("x", { agent: "nosuch" });
  if (how === "publish, unknown") await context.publish("nosuch", 1);
  if (how === "input") await context.input(text(2));
  if (how === "busy" && context.attempt === 1) throw new Overloaded("busy");
  if (how.startsWith("client ") && context.attempt === 1) {
    const headers = how === "client 429" ? new Headers({ "Retry-After": "1" }) : { "retry-after": "soon" };
    const status = Number(how.slice(7));
    const money = { status: 429, code: "insufficient_quota" };
    const fields = {
      "client away": { code: "ECONNREFUSED" },
      "client money": money,
      "client vercel": { lastError: { statusCode: 503, responseHeaders: headers } },
      "client vercel money": { statusCode: 429, data: { error: money } },
      "client aws": { name: "ThrottlingException", $metadata: { httpStatusCode: 400 } },
      "client aws 503": { $metadata: { httpStatusCode: 503 } },
      "client stream": { status: undefined, error: { type: "error", error: { type: "overloaded_error" } } },
      "client stream 400": { status: 400, code: "rate_limit_exceeded" },
    }[how] ?? { status, headers };
    throw new Error("The agent failed.", { cause: Object.assign(new Error("busy"), fields) });
  }
  if (how.startsWith("client ")) return "well";
  if (how === "busy") return [Infinity, -1, NaN].map((seconds) => new RetryAfter(seconds).seconds);
  if (how === "usage") {
    const step = (n) => context.step(`step ${n}`, (own) => own.usage({ tokens: 10, model: "m" }));
    await Promise.all([1, 2, 3].map(step));
    context.usage({ tokens: 1 });
    throw new Error("once");
  }
  if (how === "turns") {
    const contents = context.attempt === 1 ? ["a", "b", "a", "c"] : ["c", "a", "b", "a"];
    const sent = await Promise.all(contents.map(async (text) => [text, await context.send(text, { agent: "echo" })]));
    await context.step(`commits ${context.attempt}`, () => null);
    if (context.attempt === 1) throw new RetryAfter(0);
    return sent;
  }
  if (how === "half a name") {
    const half = "\\u{1F600}".slice(0, 1);
    const paid = await context.step(`pay ${half}`, () => context.attempt);
    const value = await context.step("value", () => ({ at: new Date(0), n: NaN, gone: undefined }));
    if (context.attempt === 1) throw new RetryAfter(0);
    const said = [await context.input(`really ${half}?`), await context.input("sure?", { name: `own ${half}` })];
    return { paid, value, said };
  }
  if (how === "many events") {
    const events = [];
    for (let n = 0; n < 2_000; n++) events.push(context.emit("x"));
    return events.length;
  }
  await context.emit("\\u{1F600}".repeat(30_000).slice(1, -1));
  return ["\\ud800\\u0000", "\\\\ud800", { a: "\\u{1F600}" }];
};
await new Worker({ odd }, { url: process.argv[2] }).run();
"""
ERRORS = {
    "bigint": "The agent's result is not JSON: TypeError: ",
    "no text": "The agent threw a value that has no text.",
    "half a pair": "Error: a\ufffdb\ufffd",
    "event": "The event is not JSON: TypeError: ",
}


# What no server takes, now or later: the attempt is not paid for again.
REFUSED = {
    "step, deep": "The result of the step is not JSON: RangeError",
    "step, large": "bytes; at most 1000000 are allowed",
    "step, huge": "at most 10000000 bytes (MAX_BODY_BYTES) are allowed",
    "result, huge": "at most 10000000 bytes (MAX_BODY_BYTES) are allowed",
    "result, deep": "nested too deeply",
    "send": "at most 100000 are allowed",
    "send, unknown": "nosuch",
    "publish, unknown": "nosuch",
    "input": "bytes; at most 1000000 are allowed",
}


@pytest.fixture
async def api(api_with_worker: Client, sql: Connection, tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "worker.mjs").write_text(WORKER % (ROOT / "clients/typescript/lib").as_uri())
    command = (node(), str(tmp_path / "worker.mjs"), str(api_with_worker.base_url).rstrip("/"))
    worker = await asyncio.create_subprocess_exec(*command)
    await until(lambda: sql.fetchval("select exists (select from treadle.agents where agent = 'odd')"))
    yield api_with_worker
    worker.kill()
    await worker.wait()


async def test_whatever_an_agent_returns_or_throws_ends_its_attempt(api: Client) -> None:
    for how, error in ERRORS.items():
        status = await api.settled(await api.submit(how, agent="odd", max_attempts=1))
        assert (status["state"], status["attempt"]) == ("failed", 1)
        assert status["error"].startswith(error)


@pytest.mark.parametrize("how", REFUSED)
async def test_what_the_server_refuses_for_good_ends_the_message_at_once(how: str, api: Client) -> None:
    status = await api.settled(await api.submit(how, agent="odd"))
    assert (status["state"], status["attempt"]) == ("failed", 1)
    assert REFUSED[how] in status["error"]


async def test_events_that_no_single_call_takes_are_in_the_log_before_the_end(api: Client) -> None:
    message_id = await api.submit("many events", agent="odd")
    assert (await api.settled(message_id))["result"] == 2_000
    chunks = [event.data["chunk"] for event in await api.events(message_id) if event.type == "chunk"]
    assert "".join(chunks) == "x" * 2_000


async def test_an_overload_is_no_failure_and_delays_are_bounded(api: Client) -> None:
    status = await api.settled(await api.submit("busy", agent="odd", max_attempts=1))
    assert (status["result"], status["attempt"]) == ([366 * 86_400, 0, 0], 2)


@pytest.mark.parametrize(
    ("how", "state"),
    [
        ("client 429", "completed"),
        ("client 529", "completed"),
        ("client away", "completed"),
        ("client 500", "failed"),
        ("client money", "failed"),
        ("client vercel", "completed"),
        ("client vercel money", "failed"),
        ("client aws", "completed"),
        ("client aws 503", "completed"),
        ("client stream", "completed"),
        ("client stream 400", "failed"),
    ],
)
async def test_the_overload_of_a_client_is_no_failure(how: str, state: str, api: Client) -> None:
    status = await api.settled(await api.submit(how, agent="odd", max_attempts=1))
    assert status["state"] == state, status["error"]


async def test_sends_in_another_order_are_found_by_their_content(api: Client, sql: Connection) -> None:
    message_id = await api.submit("turns", agent="odd")
    sent = (await api.settled(message_id))["result"]
    query = "select message_id::text, user_message #>> '{}' as text from treadle.message_overview where parent = $1"
    texts = {row["message_id"]: row["text"] for row in await sql.fetch(query, UUID(message_id))}
    assert [texts[id] for _, id in sent] == ["c", "a", "b", "a"]
    assert len({id for _, id in sent}) == len(texts) == 4


async def test_the_usage_of_steps_side_by_side_is_added(api: Client, sql: Connection) -> None:
    message_id = await api.submit("usage", agent="odd", max_attempts=1)
    assert (await api.settled(message_id))["usage"] == {"tokens": 31, "model": "m"}
    steps = await sql.fetch("select data -> 'usage' from treadle.events where type = 'step'")
    assert [row[0] for row in steps] == [{"tokens": 10, "model": "m"}] * 3


async def test_halves_of_pairs_are_replaced_and_no_pair_is_cut(api: Client) -> None:
    message_id = await api.submit("talk", agent="odd")
    assert (await api.settled(message_id))["result"] == ["\ufffd\ufffd", "\\ud800", {"a": "\U0001f600"}]
    chunks = [event.data["chunk"] for event in await api.events(message_id) if event.type == "chunk"]
    assert "".join(chunks) == "\ufffd" + "\U0001f600" * 29_998 + "\ufffd"


async def test_names_and_questions_with_half_a_pair_are_found_in_a_later_attempt(api: Client, sql: Connection) -> None:
    message_id = UUID(await api.submit("half a name", agent="odd"))
    for count, name in ((1, "input 1"), (2, "own \ufffd")):
        asked = await asked_input(sql, message_id, count)
        assert asked["name"] == name
        await give_input(sql, message_id, f"yes {count}")
    result = (await api.settled(str(message_id)))["result"]
    kept = {"at": "1970-01-01T00:00:00.000Z", "n": None}
    assert result == {"paid": 1, "value": kept, "said": ["yes 1", "yes 2"]}


STUBBORN = """
import { Worker } from "%s/index.js";
const paid = [];
const tell = async (context) => {
  const calls = {
    step: () => context.step("pay", () => paid.push("step")),
    send: () => context.send("pay", { agent: "echo" }),
    publish: () => context.publish("told", "pay"),
    gather: () => context.gather([]),
    input: () => context.input("pay?"),
    history: () => context.history(),
    emit: () => context.emit("pay"),
    event: () => context.event("note", "pay"),
  };
  const begun = [];
  for (const [name, call] of Object.entries(calls)) await call().then(() => begun.push(name), () => {});
  console.log(JSON.stringify([begun, paid]));
};
const stays = async (context) => {
  await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
  await tell(context);
};
const leaves = async (context) => {
  process.stdin.once("data", () => tell(context));
};
await new Worker({ stays, leaves }, { url: process.argv[2] }).run();
"""


async def test_an_agent_that_goes_on_after_its_end_begins_nothing(
    api_with_worker: Client, sql: Connection, tmp_path: Path
) -> None:
    """After its time is over, after a cancellation, and in what a completed attempt leaves behind."""
    api = api_with_worker
    (tmp_path / "worker.mjs").write_text(STUBBORN % (ROOT / "clients/typescript/lib").as_uri())
    command = (node(), str(tmp_path / "worker.mjs"), str(api.base_url).rstrip("/"))
    pipe = asyncio.subprocess.PIPE
    worker = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        await until(lambda: sql.fetchval("select exists (select from treadle.agents where agent = 'leaves')"))
        late = await api.submit("x", agent="stays", timeout_seconds=0.2, max_attempts=1)
        assert (await api.settled(late))["state"] == "failed"
        told = [await worker.stdout.readline()]
        cancelled = await api.submit("x", agent="stays")
        await api.settled(cancelled, "processing")
        await api.delete(f"/messages/{cancelled}")
        assert (await api.settled(cancelled))["state"] == "cancelled"
        told.append(await worker.stdout.readline())
        assert (await api.settled(await api.submit("x", agent="leaves")))["state"] == "completed"
        worker.stdin.write(b"go on\n")
        told.append(await worker.stdout.readline())
    finally:
        worker.kill()
        await worker.wait()
    assert told == [b"[[],[]]\n"] * 3
