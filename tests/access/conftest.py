"""APIs that require a key."""

import pytest

from tests.support.access import CLOSED
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi


@pytest.fixture
async def closed_api(start_api: StartApi, register_agents: RegisterAgents) -> Client:
    """An API that requires a key, with the agent echo and no worker."""
    await register_agents()
    return await start_api(**CLOSED)
