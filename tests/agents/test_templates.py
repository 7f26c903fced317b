"""Agents of AGENT_TEMPLATES: valid files, and the errors of invalid ones."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from service.agents import registry
from service.config import Settings
from service.db.pool import Connection
from service.errors import ConfigError
from tests.support.documents import DOCS, blocks
from tests.support.fake_anthropic import Answer, FakeAnthropic, tool_calls
from tests.support.fixture_types import StartWorker
from tests.support.messages import overview, run, settled, submit, text, types
from tests.support.repository import ROOT
from tests.support.waiting import until
from tests.support.worker_processes import WorkerProcesses, exit_code
from treadle.adapters import http_agent

TOOLS = """
from treadle.adapters import claude_agent

def lookup(word: str) -> str:
    "Looks a word up."
    return word

async def untyped(word): ...

def other(name: str, **options):
    return claude_agent("other")

def nothing_made(name: str):
    return None

number = 1
"""
# Modules with a template whose annotations cannot all be evaluated.
CHECKED_ONLY_BY_TYPE_CHECKERS = """
from __future__ import annotations
from typing import TYPE_CHECKING, Unpack
from treadle import LimitOptions
from treadle.adapters import claude_agent
if TYPE_CHECKING:
    from nowhere import Greeting

def make(name: str, greeting: Greeting = None, **limits: Unpack[LimitOptions]):
    return claude_agent(name, **limits)
"""
UNKNOWN_ANNOTATIONS = """
from __future__ import annotations
import collections.abc
from treadle.adapters import claude_agent

def make(name: str, greeting: collections.abc.Nope = None, **limits: collections.abc.Nope):
    return claude_agent(name, **limits)
"""

Write = Callable[[Any], Settings]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """A function that writes the file and a module of tools into the working folder, and returns settings for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    tmp_path.joinpath("my_tools.py").write_text(TOOLS)

    def write(content: Any) -> Settings:
        Path("agents.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return Settings(agent_templates=Path("agents.yaml"), anthropic_api_key="sk-test")

    yield write
    sys.modules.pop("my_tools", None)


def test_entries_are_agents(write: Write) -> None:
    settings = write(
        """
        agents:
          - name: translator
            template: claude
            model: claude-small
            system: Translate into French.
            tools: [my_tools:lookup, {type: web_search_20250305, name: web_search}]
            max_tokens: 3000
            thinking: 2000
            price: {input: 3, output: 15.5}
            options: {temperature: 1}
            queue: own
            timeout: 120
            max_attempts: 2
            description: Translates.
          - name: plain
          - name: counter
            template: treadle.adapters:http_agent
            url: http://localhost:9000/
            timeout: 7.5
        """
    )
    found = registry.load(settings)
    rows = {row["agent"]: row for row in found.rows()}
    assert set(rows) >= {"echo", "claude", "translator", "plain", "counter"}
    row = rows["translator"]
    assert (row["queue"], row["timeout_seconds"], row["max_attempts"]) == ("own", 120, 2)
    assert row["description"] == "Translates."
    assert rows["plain"]["description"] == rows["claude"]["description"] != ""
    assert rows["plain"]["input"] == rows["claude"]["input"]
    assert rows["counter"]["timeout_seconds"] == 7.5
    assert rows["counter"]["description"] == http_agent("x", "http://localhost/").limits.description


async def test_an_entrys_options_reach_the_model(
    sql: Connection,
    settings: Settings,
    start_worker: StartWorker,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    entry = {"name": "x", "system": "Be kind.", "tools": ["my_tools:lookup"], "max_tokens": 7}
    path = write({"agents": [entry, {"name": "y"}]}).agent_templates
    async with FakeAnthropic().running() as fake:
        asking = msgspec.structs.replace(
            settings, agent_templates=path, anthropic_api_key="sk-test", anthropic_base_url=fake.url, model_name="m"
        )
        found = registry.load(asking)
        await start_worker(*(agent for name in "xy" if (agent := found.get(name))))
        fake.script.append(tool_calls(("a", "lookup", {"word": "sky"})))
        assert (await run(sql, "Hi", agent="x"))["result"] == "Hello, world"
        assert (await run(sql, "Hi", agent="y"))["result"] == "Hello, world"
    body = fake.requests[0].body
    assert (body["model"], body["system"], body["max_tokens"]) == ("m", "Be kind.", 7)
    assert [tool["name"] for tool in body["tools"]] == ["lookup"]
    assert fake.requests[1].body["messages"][-1]["content"][0]["content"] == "sky"
    assert fake.requests[2].body.keys() == {"model", "max_tokens", "messages", "stream"}


def test_agents_of_templates_are_left_out_without_a_key(write: Write) -> None:
    settings = write({"agents": [{"name": "x"}]})
    found = registry.load(msgspec.structs.replace(settings, anthropic_api_key=None))
    assert found.keyless == {"claude": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY", "x": "ANTHROPIC_API_KEY"}
    assert found.get("x") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("agents: [", "cannot be read: while parsing"),
        ("", "must have one key, `agents`, whose value is a list."),
        ([], "must have one key, `agents`, whose value is a list."),
        ({"agents": {}}, "must have one key, `agents`, whose value is a list."),
        ({"agents": [], "more": 1}, "must have one key, `agents`, whose value is a list."),
    ],
)
def test_an_invalid_file_is_reported(content: Any, said: str, write: Write) -> None:
    assert refusal(write(content)).startswith(f"AGENT_TEMPLATES: agents.yaml {said}")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    said = refusal(Settings(agent_templates=path))
    assert said == f"AGENT_TEMPLATES: {path} cannot be read: No such file or directory."


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"modle": "x"}, "has the unknown key 'modle'."),
        ({"max_tokens": "many"}, "has a max_tokens that does not fit: Expected a whole number, got a text."),
        ({"tools": "my_tools:lookup"}, "has a tools that does not fit: Expected a list, got a text."),
        ({"thinking": 7}, "cannot be made: thinking is at least 1024 tokens and below max_tokens (4096)."),
        ({"timeout": 0}, "cannot be made: the agent's timeout must be above 0 and at most 604800 seconds."),
        ({"template": "clod"}, "has the unknown template 'clod'; write claude, openai, http or module:name."),
        ({"template": 3}, "has the unknown template 3; write claude, openai, http or module:name."),
        ({"template": "gone:x"}, "has the template 'gone:x', which cannot be imported: No module named 'gone'."),
        ({"template": "my_tools:number"}, "has the template 'my_tools:number', which is not a function."),
        ({"template": "my_tools:lookup"}, "has the unknown key 'name'."),
        (
            {"template": "treadle.adapters:http_agent"},
            "cannot be made: missing a required argument: 'url'.",
        ),
        (
            {"template": "my_tools:other"},
            "has the template 'my_tools:other', which does not return an agent of this name.",
        ),
        (
            {"template": "my_tools:nothing_made"},
            "has the template 'my_tools:nothing_made', which does not return an agent of this name.",
        ),
        ({"run_in": "foo"}, "has a run_in that does not fit: Expected one of worker, process, got 'foo'."),
        ({"template": "treadle.adapters:http_agent", "uri": "x"}, "has the unknown key 'uri'."),
        ({"tools": ["lookup"]}, "has the unknown tool 'lookup'; write module:name."),
        (
            {"tools": ["my_tools:nothing"]},
            "has the tool 'my_tools:nothing', which cannot be imported:"
            " module 'my_tools' has no attribute 'nothing'.",
        ),
        ({"tools": ["my_tools:untyped"]}, "cannot be made: the tool untyped: its parameter word has no type."),
        ({"tools": ["my_tools:number"]}, "has the tool 'my_tools:number', which is not a function."),
    ],
)  # fmt: skip
def test_an_invalid_entry_is_reported_by_name(entry: dict[str, Any], said: str, write: Write) -> None:
    assert (
        refusal(write({"agents": [{"name": "x", **entry}]})) == f"AGENT_TEMPLATES: the agent 'x' of agents.yaml {said}"
    )


@pytest.mark.parametrize(
    "module", [CHECKED_ONLY_BY_TYPE_CHECKERS, UNKNOWN_ANNOTATIONS], ids=["type checkers", "unknown"]
)
def test_a_templates_annotations_need_not_be_evaluated(module: str, write: Write) -> None:
    settings = write({"agents": [{"name": "x", "template": "my_tools:make", "greeting": "Hi", "timeout": 7}]})
    Path("my_tools.py").write_text(module)
    found = registry.load(settings).get("x")
    assert found is not None
    assert found.limits.timeout == 7


def test_a_templates_limit_options_are_its_known_keys(write: Write) -> None:
    settings = write({"agents": [{"name": "x", "template": "my_tools:make", "timeuot": 7}]})
    Path("my_tools.py").write_text(CHECKED_ONLY_BY_TYPE_CHECKERS)
    assert refusal(settings).endswith("has the unknown key 'timeuot'.")


@pytest.mark.parametrize("entry", ["x", {}, {"name": ""}, {"name": 3}])
def test_an_entry_without_a_name_is_reported_by_number(entry: Any, write: Write) -> None:
    said = refusal(write({"agents": [{"name": "x"}, entry]}))
    assert said == "AGENT_TEMPLATES: entry 2 of agents.yaml must be a mapping with a name."


def test_no_two_agents_share_a_name(write: Write) -> None:
    assert refusal(write({"agents": [{"name": "x"}] * 2})) == (
        "AGENT_TEMPLATES: the agent 'x' of agents.yaml appears twice."
    )
    said = refusal(write({"agents": [{"name": "claude"}]}))
    assert said == "AGENT_TEMPLATES: the name 'claude' is taken by another agent: rename it."


def refusal(settings: Settings) -> str:
    with pytest.raises(ConfigError) as caught:
        registry.load(settings)
    said = str(caught.value)
    assert "\n" not in said
    return said


# The examples


def test_the_docs_show_the_example_file() -> None:
    [shown] = blocks(DOCS / "agents" / "templates.md", "yaml examples/agents.yaml")
    assert shown.text == (ROOT / "examples" / "agents.yaml").read_text(encoding="utf-8")
    assert [*yaml.safe_load(blocks(DOCS / "agents" / "templates.md", "yaml")[0].text)] == ["agents"]


async def test_the_examples_answer(
    sql: Connection, settings: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    async with FakeAnthropic().running() as fake:
        found = registry.load(
            msgspec.structs.replace(
                settings,
                agents=("examples.desk",),
                agent_templates=Path("examples/agents.yaml"),
                anthropic_api_key="sk-test",
                anthropic_base_url=fake.url,
                model_name="claude-test",
            )
        )
        await start_worker(*(agent for name in ("desk", "translator", "porter") if (agent := found.get(name))))
        calls = [
            ("find_order", {"number": 17}),
            ("find_order", {"number": 7}),
            ("refund", {"number": 17, "cents": 500}),
        ]
        fake.script.append(tool_calls(*((name, name, given) for name, given in calls)))
        assert (await run(sql, "Where is it?", agent="desk"))["result"] == "Hello, world"
        fake.script.append(tool_calls(("a", "find_order", {"number": 18})))
        row = await run(sql, "Where is it?", agent="porter")
        assert (row["result"], row["usage"]["cost_usd"]) == ("Hello, world", pytest.approx((22 + 5 * 44) / 1e6))
        assert (await run(sql, "Hello", agent="translator"))["result"] == "Hello, world"
    contents = [result["content"] for result in fake.requests[1].body["messages"][-1]["content"]]
    assert contents == [
        '{"number":17,"goods":"a red bicycle","days_late":3}',
        "LookupError: There is no order 7.",
        "500 cents are on their way.",
    ]


# In real processes


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[WorkerProcesses]:
    processes = WorkerProcesses(settings, tmp_path / "log")
    yield processes
    processes.end()


async def test_a_killed_worker_loses_no_finished_round(
    sql: Connection, processes: WorkerProcesses, tmp_path: Path
) -> None:
    """The second attempt, in another process, repeats the interrupted model call and calls no tool."""
    templates, notes = tmp_path / "agents.yaml", tmp_path / "notes"
    templates.write_text("agents: [{name: scribe, tools: ['tests.support.isolated_claude_tools:note']}]")
    async with FakeAnthropic().running() as fake:
        environ = {
            "AGENTS": "",
            "AGENT_TEMPLATES": str(templates),
            "ANTHROPIC_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": fake.url,
            "NO_PROXY": "127.0.0.1",
        }
        fake.script += [
            tool_calls(("a", "note", {"file": str(notes)}), ("b", "note", {"file": str(notes)}), pieces=("Noted.",)),
            Answer(("Hel",), ends="never"),
        ]
        first = await processes.start(sql, **environ)
        message_id = await submit(sql, "Hi", agent="scribe")
        await until(lambda: types(sql, message_id), lambda found: found.count("chunk") == 2)
        first.kill()
        await exit_code(first)
        await processes.start(sql, **environ)
        message = await settled(sql, message_id)
        assert (message["state"], message["result"]) == ("completed", "Hello, world")
        assert (message["attempt"], message["losses"]) == (2, 1)
        assert notes.read_text() == f"{first.pid}\n" * 2
        assert len(fake.requests) == 3
        assert fake.requests[1].body == fake.requests[2].body
        assert await text(sql, message_id) == "Noted.\n\nHello, world"
        assert (await overview(sql, message_id))["usage"]["output_tokens"] == 44
