"""The shipped agents, the decorator and the registry."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.agents import registry
from service.agents.builtin.echo import echo
from service.agents.resolver import team as resolver
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection
from service.errors import ConfigError
from service.limits import AGENT_NAME_RULE, MAX_DELAY_SECONDS, SUBSCRIPTION_NAME_RULE
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, submit_many, text, types
from tests.support.waiting import until
from tests.support.workers import worker_ids
from treadle import Agent, Context, Rejected, RetryAfter, agent

ROOT = Path(__file__).resolve().parents[2]


class Listening:
    """The part of a Context that echo uses."""

    def __init__(self, **metadata: Any) -> None:
        self.metadata = metadata
        self.attempt = 1
        self.chunks: list[str] = []

    async def emit(self, chunk: str) -> None:
        self.chunks.append(chunk)


# echo


@given(st.text(min_size=1))
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_echo_streams_exactly_its_input(message: str) -> None:
    context = Listening()
    assert await echo(context, message) == message
    assert "".join(context.chunks) == message


async def test_echo_streams_word_by_word(sql: Connection, start_worker: StartWorker) -> None:
    context = Listening()
    await echo(context, "  one\ttwo\n\nthree \n")
    assert context.chunks == ["  one", "\ttwo", "\n\nthree", " \n"]
    await start_worker()
    message = await run(sql, "  one\ttwo\n\nthree \n")
    assert message["result"] == "  one\ttwo\n\nthree \n"
    assert await text(sql, message["message_id"]) == message["result"]
    assert (await types(sql, message["message_id"])).count("chunk") == 4


async def test_echo_waits_before_each_word(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker()
    message = await run(sql, "one two three", metadata={"delay_ms": 300})
    assert message["completed_at"] - message["started_at"] >= timedelta(seconds=0.9)
    at = [entry.created_at for entry in await log(sql, message["message_id"]) if entry.type == "chunk"]
    assert len(set(at)) > 1  # the worker does not keep them until the end


async def test_echo_fails_as_many_attempts_as_metadata_asks(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker()
    message = await run(sql, "one", metadata={"fail_times": 2})
    assert (message["state"], message["attempt"]) == ("completed", 3)
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == ["queued", *["started", "retry"] * 2, "started", "chunk", "done"]
    assert entries[2].data["error"] == "Failing attempt 1, as metadata.fail_times asks."
    message = await run(sql, "one", metadata={"fail_times": 3})
    assert (message["state"], message["attempt"]) == ("failed", 3)


@pytest.mark.parametrize(
    "metadata", [{"delay_ms": "10"}, {"delay_ms": -1}, {"delay_ms": True}, {"fail_times": None}, {"fail_times": [1]}]
)
async def test_echo_rejects_invalid_metadata(metadata: dict[str, Any]) -> None:
    context = Listening(**metadata)
    with pytest.raises(Rejected, match=f"metadata.{next(iter(metadata))} must be a number, 0 or more"):
        await echo(context, "x")
    assert context.chunks == []


# The decorator


class Question(msgspec.Struct):
    words: list[str]


def test_an_agent_takes_description_and_input_type_from_its_function() -> None:
    @agent("full", queue="special", timeout=5, max_attempts=7)
    async def full(context: Context, request: Question) -> str:
        """Answers
        questions.

        At length.
        """
        return " ".join(request.words)

    assert (full.name, full.limits.queue, full.limits.timeout, full.limits.max_attempts) == ("full", "special", 5, 7)
    assert full.limits.description == "Answers questions."
    assert full.is_async
    assert full.input_type is Question
    assert full.input_schema is not None
    assert full.input_schema["$defs"]["Question"]["required"] == ["words"]
    assert full.decode({"words": ["a"]}) == Question(["a"])
    with pytest.raises(Rejected, match=r"^The message does not fit the agent's input: Expected `array`"):
        full.decode({"words": 1})


def test_an_agent_without_annotations_takes_text() -> None:
    @agent("plain", description="Says it differently.")
    def plain(context, request):  # type: ignore[no-untyped-def]
        """Not this."""

    assert (plain.limits.queue, plain.limits.timeout, plain.limits.max_attempts) == ("default", None, None)
    assert not plain.is_async
    assert plain.limits.description == "Says it differently."
    assert plain.input_schema is None
    assert plain.decode("text") == "text"


def test_the_rules_of_names_are_said_the_same_everywhere() -> None:
    guide = (ROOT / "docs" / "agents" / "writing.md").read_text(encoding="utf-8")
    [row] = [line for line in guide.splitlines() if line.startswith("| `name`")]
    for said in (row.replace("`", '"'), " ".join((agent.__doc__ or "").split())):
        for rule in (AGENT_NAME_RULE.removeprefix("a text of "), SUBSCRIPTION_NAME_RULE):
            assert rule in said


def _unreadable(context: Context, request: Callable[[], None]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (lambda context, request: None, {"name": None}, "name must be a text of 1 to 100 characters"),
        (lambda context, request: None, {"name": ""}, "name must be a text of 1 to 100 characters"),
        (lambda context, request: None, {"name": "x" * 101}, "name must be a text of 1 to 100 characters"),
        *(
            (lambda context, request: None, {"name": name}, 'neither "." nor ".."; ')
            for name in (".", "..", "a/b", "a\x00b", "a\n", "\x85")
        ),
        (lambda context, request: None, {"timeout": 0}, "timeout must be above 0 and at most 604800"),
        (lambda context, request: None, {"timeout": float("inf")}, "timeout must be above 0 and at most 604800"),
        (lambda context, request: None, {"max_attempts": 0}, "max_attempts must be between 1 and 1000"),
        (lambda context: None, {}, "takes a context and its input; .* takes 1 arguments"),
        (lambda context, request, more: None, {}, "takes 3 arguments"),
        (_unreadable, {}, "Generating JSON schema"),
    ],
)
def test_invalid_arguments_are_refused_when_the_agent_is_made(
    function: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        Agent(**{"name": "x", "function": function, **options})


def test_retry_after_is_limited_to_the_longest_delay() -> None:
    assert RetryAfter(1.5).seconds == 1.5
    assert RetryAfter(-1).seconds == 0
    assert RetryAfter(float("inf")).seconds == MAX_DELAY_SECONDS
    assert str(RetryAfter(2)) == "Asked to be retried after 2 seconds."
    assert str(RetryAfter(2, "why")) == "why"


# The registry


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Settings]]:
    """Write modules into the working folder; returns settings that name them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(**sources: str) -> Settings:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        return Settings(agents=tuple(sources))

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


AGENT = """
from treadle import Context, agent

@agent("{name}", queue="own", timeout=3)
async def answer(context: Context, request: str) -> str:
    "Answers."
    return "{name}"
"""


def test_modules_are_found_in_the_working_folder(modules: Callable[..., Settings]) -> None:
    found = registry.load(modules(one_of_mine=AGENT.format(name="one"), two_of_mine=AGENT.format(name="two")))
    rows = {row["agent"]: row for row in found.rows()}
    assert set(rows) == {"echo", "resolver", "clarifier", "one", "two"}
    assert rows["one"] == {
        "agent": "one",
        "queue": "own",
        "timeout_seconds": 3,
        "max_attempts": 3,
        "input": None,
        "description": "Answers.",
        "settings": {
            "run_in": "worker",
            "concurrency": None,
            "idle_timeout": 7200.0,
            "while_busy": None,
            "max_losses": None,
        },
    }
    assert found.get("two") is not None
    assert found.get("three") is None


def test_several_modules_may_contain_the_same_agent(modules: Callable[..., Settings]) -> None:
    found = registry.load(modules(first_home=AGENT.format(name="one"), second_home="from first_home import answer"))
    assert found.get("one") is not None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import no_such_module_of_mine",
            "cannot be imported: No module named 'no_such_module_of_mine' (faulty_module.py, line 1).",
        ),
        ("raise ValueError('two\\nlines')", "cannot be imported: two lines (faulty_module.py, line 1)."),
        ("def", "cannot be imported: invalid syntax"),
        ("raise SystemExit('no key')", "cannot be imported: no key (faulty_module.py, line 1)."),
        ("\nraise SystemExit(3)", "cannot be imported: it exits with 3 (faulty_module.py, line 2)."),
        (
            "import os, json\nx = os.environ['NO_KEY']",
            "cannot be imported: there is no 'NO_KEY' (faulty_module.py, line 2).",
        ),
        ("import json\njson.loads('{')", "cannot be imported: Expecting property name"),
        ("x = 1", "has no agent: decorate a function with @agent."),
        (AGENT.format(name="echo"), "has an agent 'echo', but that name is taken: rename it."),
        (AGENT.format(name=""), "cannot be imported: an agent's name must be a text of 1 to 100 "),
    ],
)
def test_an_invalid_module_is_reported_in_one_sentence(
    source: str, said: str, modules: Callable[..., Settings]
) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.load(modules(faulty_module=source))
    assert str(caught.value).startswith(f"AGENTS: the module faulty_module {said}")
    assert "\n" not in str(caught.value)


def test_an_unknown_module_is_reported() -> None:
    with pytest.raises(ConfigError, match="AGENTS: the module nowhere_to_be_found cannot be imported"):
        registry.load(Settings(agents=("nowhere_to_be_found",)))


async def test_a_worker_without_a_key_has_no_claude(sql: Connection, start_worker: StartWorker) -> None:
    keyed, keyless = registry.load(Settings(anthropic_api_key="sk-test")), registry.load(Settings())
    assert (list(keyed.keyless), sorted(keyless.keyless)) == (["openai"], ["claude", "openai"])
    assert keyless.get("claude") is None
    for found in (keyed, keyless):  # the worker without the key registers last
        await start_worker(*(found.get(row["agent"]) for row in found.rows()))
    assert await sql.fetchval("select agent from treadle.agents where is_default") == "claude"


async def test_a_worker_declares_the_default_agent(sql: Connection, start_worker: StartWorker, caplog: Any) -> None:
    await start_worker(default_agent="clarifier")
    assert await sql.fetchval("select count(*) from treadle.agents where is_default") == 0
    await start_worker(*resolver.make(Settings()))
    assert await sql.fetchval("select agent from treadle.agents where is_default") == "clarifier"
    assert "DEFAULT_AGENT differs" not in caplog.text
    await start_worker(default_agent="echo")
    assert await sql.fetchval("select agent from treadle.agents where is_default") == "echo"
    assert "DEFAULT_AGENT differs between workers" in caplog.text


# The example


async def test_the_example_answers_through_a_worker(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    summarise = registry.load(Settings(agents=("examples.summarise",))).get("summarise")
    assert summarise is not None
    await start_worker(summarise)
    text_in = "Queues keep order. A cat slept. Queues keep messages in order, and queues keep them safe! Rain fell."
    message = await run(sql, {"text": text_in, "sentences": 2}, agent="summarise")
    summary = "Queues keep order. Queues keep messages in order, and queues keep them safe!"
    assert message["result"] == {"summary": summary, "kept": 2, "of": 4}
    assert await text(sql, message["message_id"]) == summary
    assert "progress" in await types(sql, message["message_id"])
    message_id = await submit(sql, {"text": "...", "sentences": 2}, agent="summarise")
    assert (await settled(sql, message_id))["error"] == "The text has no words."
    message_id = await submit(sql, {"text": "One.", "sentences": 0}, agent="summarise")
    assert "Expected `int` >= 1 - at `$.sentences`" in (await settled(sql, message_id))["error"]


async def test_a_scripted_model_leaves_its_messages_to_a_worker_with_a_key(
    sql: Connection, settings: Settings, start_worker: StartWorker
) -> None:
    def resolver(answer: str) -> Agent:
        async def resolve(context: Context, text: str) -> str:
            return answer

        return Agent("resolver", resolve)

    @agent(registry.KEYED_AGENTS[0])
    async def claude(context: Context, text: str) -> str:
        return text

    # Each time that the keyless worker is the first to claim a message, it waits longer for the other one.
    settings = msgspec.structs.replace(settings, retry_max_seconds=0.2)
    scripted = registry.Registry(settings, [resolver("script")], scripted=["resolver"])
    keyless = build_worker(settings, str(settings.database_url), scripted)
    running = asyncio.create_task(keyless.run())
    try:
        await until(lambda: keyless.ready)
        assert (await run(sql, "x", agent="resolver"))["result"] == "script"
        keyed = await start_worker(resolver("key"), claude)
        await until(lambda: worker_ids(sql), lambda found: keyed.worker_id in found)
        ids = await submit_many(sql, [{"message": "x", "agent": "resolver"}] * 10)
        rows = [await settled(sql, message_id) for message_id in ids]
        assert {(row["result"], row["failures"]) for row in rows} == {("key", 0)}
        keyed.stop()
        await until(lambda: worker_ids(sql), lambda found: found == [keyless.worker_id])
        assert (await run(sql, "x", agent="resolver"))["result"] == "script"
    finally:
        keyless.stop()
        keyless.stop()
        await running
