"""The unmodified client of the dialect, against a real server."""

from collections.abc import AsyncIterator

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that compares may start slowly on a busy machine."""
    monkeypatch.setattr("service.schemas.compatibility.compare.TIMEOUT_SECONDS", LIMIT_SECONDS)


@pytest.fixture
async def open_api(start_api: StartApi) -> Client:
    return await start_api()


@pytest.fixture
async def client(open_api: Client) -> AsyncIterator[SchemaRegistryClient]:
    """It blocks: call it in a thread."""
    with SchemaRegistryClient({"url": f"{open_api.base_url}/schema-registry", "max.retries": 0}) as found:
        yield found
