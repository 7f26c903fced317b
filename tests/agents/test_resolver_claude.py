"""The team on Claude, over HTTP against a fake of the Messages API with a script for each role."""

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from service.agents.resolver import prompts, team
from service.agents.resolver.claude import Claude
from service.agents.resolver.scripted import Scripted
from service.config import Settings
from tests.support.api_client import Client
from tests.support.fake_anthropic import Answer, FakeAnthropic, Status
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_model import ask_and_settle, ask_resolver, has_event, task
from tests.support.sse_reader import stored_log

ROLES = {
    prompts.PLANNER: "planner",
    prompts.REVISER: "reviser",
    prompts.EXECUTOR: "executor",
    prompts.AGGREGATOR: "aggregator",
    prompts.CLARIFIER: "clarifier",
}


class Team(FakeAnthropic):
    """`says` has the answers for each role, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.says: defaultdict[str, deque[Answer | Status]] = defaultdict(deque)
        self.script = _ByRole(self)

    @property
    def asked(self) -> list[str]:
        return [ROLES[request.body["system"]] for request in self.requests]

    def prompts(self, role: str) -> list[str]:
        """The prompts that this role received."""
        return [
            request.body["messages"][0]["content"] for request in self.requests if ROLES[request.body["system"]] == role
        ]

    def plans(self, *tasks: dict[str, Any], role: str = "planner", **fields: Any) -> None:
        text = json.dumps({"tasks": tasks, **fields})
        self.says[role].append(Answer((text[:10], text[10:])))


class _ByRole(deque[Answer | Status]):
    def __init__(self, api: Team) -> None:
        super().__init__()
        self._api = api

    def __bool__(self) -> bool:
        return True

    def popleft(self) -> Answer | Status:
        role = self._api.asked[-1]
        return self._api.says[role].popleft() if self._api.says[role] else Answer((f"The {role}", " says."))


@pytest.fixture
async def claude(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Team]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with Team().running() as fake:
        assert isinstance(fake, Team)
        yield fake


@pytest.fixture
async def api(claude: Team, settings: Settings, start_api: StartApi, start_worker: StartWorker) -> Client:
    own = msgspec.structs.replace(
        settings, anthropic_api_key="sk-test", anthropic_base_url=claude.url, model_name="claude-test"
    )
    await start_worker(*team.make(own))
    return await start_api()


async def test_the_team_calls_claude_in_each_role(api: Client, claude: Team) -> None:
    claude.plans(task("a"), task("b", "a"))
    claude.says["executor"] += [Answer(("Bread is ", "flour.")), Answer(("Flour is wheat.",))]
    claude.says["aggregator"].append(Answer(("# Bread", "\n\nIt is wheat.")))
    row = await ask_and_settle(api, "What is bread?")
    assert (row["state"], row["result"]) == ("completed", "# Bread\n\nIt is wheat.")
    assert claude.asked == ["planner", "executor", "executor", "aggregator"]
    chunks = [event.data["chunk"] for event in await stored_log(api, row["message_id"]) if event.type == "chunk"]
    assert chunks == ["# Bread", "\n\nIt is wheat."]
    assert row["usage"] == {"model": "claude-test", "calls": 4, "input_tokens": 44, "output_tokens": 88}

    [planner], [first, second], [aggregator] = map(claude.prompts, ("planner", "executor", "aggregator"))
    assert planner == "# request\n\nWhat is bread?"
    assert first == "# the whole request, for orientation\n\nWhat is bread?\n\n# your task: Title a\n\nDo a."
    assert "# result of: Title a\n\nBread is flour." in second
    assert "# result of: Title a\n\nBread is flour.\n\n# result of: Title b\n\nFlour is wheat." in aggregator
    body = claude.requests[0].body
    assert body.keys() == {"model", "max_tokens", "system", "messages", "stream"}
    assert (body["model"], claude.requests[0].headers["authorization"]) == ("claude-test", "Bearer sk-test")


async def test_the_planner_of_a_refinement_receives_the_last_plan(api: Client, claude: Team) -> None:
    claude.plans(task("a"), task("b"))
    claude.plans({"id": "a", "keep": True}, task("b"), role="reviser")
    await ask_and_settle(api, "What is bread?")
    row = await ask_and_settle(api, "And the butter is what?")
    assert row["state"] == "completed"
    assert claude.asked[4:] == ["reviser", "executor", "aggregator"]
    [reviser] = claude.prompts("reviser")
    for part in (
        "# request\n\nWhat is bread?",
        '"id": "b"',
        "# result of a\n\nThe executor says.",
        "# answer that was given\n\nThe aggregator says.",
        "# new instruction\n\nAnd the butter is what?",
    ):
        assert part in reviser
    again = claude.prompts("aggregator")[1]
    assert again.endswith("# instructions since, the last one now\n\n- And the butter is what?")


async def test_an_invalid_plan_returns_to_the_planner_with_its_problem(api: Client, claude: Team) -> None:
    claude.plans(task("a", "z"))
    claude.plans(task("a"))
    assert (await ask_and_settle(api))["state"] == "completed"
    again = claude.prompts("planner")[1]
    assert "# your first plan\n\n" in again
    assert again.endswith(
        "As a plan: the task 'a' is after 'z', which is not a task. Give the whole plan again, as JSON alone."
    )


async def test_the_clarifier_receives_the_teams_progress(api: Client, claude: Team) -> None:
    claude.plans(task("a"), task("b", "a"))
    claude.says["executor"] += [Answer(("Bread is flour.",)), Answer((), ends="never")]
    message_id = await ask_resolver(api, "What is bread?")
    await has_event(api, message_id, "progress", task="b", state="started")
    row = await ask_and_settle(api, "How far?", agent="clarifier", aside=True)
    assert row["result"] == "The clarifier says."
    assert row["usage"] == {"model": "claude-test", "calls": 1, "input_tokens": 11, "output_tokens": 22}
    [told] = claude.prompts("clarifier")
    assert told == (
        "# request\n\nWhat is bread?\n\n# where the team is\n\n- Title a: finished\n- Title b: running\n\n"
        "# result of: Title a\n\nBread is flour.\n\n# question\n\nHow far?"
    )
    await api.delete(f"/messages/{message_id}")
    assert (await api.settled(message_id))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("reply", "attempt", "error"),
    [
        (
            Status(429, message="Slow down", headers={"Retry-After": "0"}),
            2,
            "The Anthropic API answered the executor 429: Slow down.",
        ),
        (
            Status(529, message="Overloaded"),
            2,
            "The Anthropic API answered the executor 529: Overloaded.",
        ),
        (Answer(("Hel",), ends="early"), 2, "ConnectionError: The stream of the executor ended before its answer did."),
        (Answer(("Hel",), ends="cut"), 2, "RemoteProtocolError: peer closed connection"),
        (
            Answer(("Hel",), ends="error", error="api_error"),
            2,
            "ConnectionError: The Anthropic API broke off the answer of the executor: Told",
        ),
        (Status(400, message="too long."), 1, "The Anthropic API answered the executor 400: too long."),
        (Answer((), stop_reason="refusal"), 1, "The model refused to answer as the executor."),
    ],
    ids=["429", "529", "early", "cut", "error event", "400", "refusal"],
)
async def test_errors_of_the_api(api: Client, claude: Team, reply: Any, attempt: int, error: str) -> None:
    claude.plans(task("a"))
    claude.says["executor"].append(reply)
    row = await ask_and_settle(api)
    assert (row["state"], row["attempt"]) == ("completed" if attempt == 2 else "failed", attempt)
    events = await stored_log(api, row["message_id"])
    [said] = [event.data["error"] for event in events if event.type in {"retry", "error"}]
    assert said.startswith(error)
    assert claude.asked == ["planner", "executor", *(["executor", "aggregator"] if attempt == 2 else [])]


def test_the_model_is_claude_if_there_is_a_key(settings: Settings) -> None:
    with_key = msgspec.structs.replace(settings, anthropic_api_key="sk-test")
    for own, kind in ((settings, Scripted), (with_key, Claude)):
        resolver, clarifier = team.make(own)
        assert (resolver.name, resolver.limits.while_busy, clarifier.name) == ("resolver", "clarifier", "clarifier")
        [model] = [cell.cell_contents for cell in resolver.function.__closure__ or ()]
        assert isinstance(model, kind)
