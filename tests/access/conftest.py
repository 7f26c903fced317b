"""APIs that require a key."""

import time
from types import SimpleNamespace

import pytest

from tests.support.access import CLOSED, PassTime
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi


@pytest.fixture
async def closed_api(start_api: StartApi, register_agents: RegisterAgents) -> Client:
    """An API that requires a key, with the agent echo and no worker."""
    await register_agents()
    return await start_api(**CLOSED)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> PassTime:
    """Let so many seconds pass for the APIs' checks of keys and tokens."""

    def pass_(seconds: float) -> None:
        now = time.time
        clock = SimpleNamespace(time=lambda: now() + seconds)
        monkeypatch.setattr("service.access.authenticator.time", clock)

    return pass_
