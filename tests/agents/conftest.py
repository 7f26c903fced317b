"""Fixtures of the tests of agents."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from service.logs import LIBRARIES
from tests.support.claude_runs import StartClaudeAgent, claude_agent_starter
from tests.support.fake_anthropic import FakeAnthropic
from tests.support.fixture_types import StartWorker


@pytest.fixture
async def fake_claude(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAnthropic]:
    """A fake of the Messages API that the agent of `start_claude` asks."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeAnthropic().running() as fake:
        yield fake


@pytest.fixture
def start_claude(fake_claude: FakeAnthropic, start_worker: StartWorker) -> StartClaudeAgent:
    return claude_agent_starter(fake_claude, start_worker)


@pytest.fixture
def private_text(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Words of a person, which no line of the log has at the level INFO."""
    text = "the words of a person"
    caplog.set_level(logging.INFO)
    for library in LIBRARIES:  # as service/logs.py sets them
        caplog.set_level(logging.WARNING, library)
    yield text
    assert not [vars(record) for record in caplog.get_records("call") if text in str(vars(record))]
