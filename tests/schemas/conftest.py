"""The unmodified client of the dialect, against a real server."""

from collections.abc import AsyncIterator

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from service.db.pool import Database
from service.schemas.registry import Registry
from service.schemas.sandboxed.checks import SchemaChecks
from service.schemas.store import SchemaStore
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi


@pytest.fixture
async def checks() -> AsyncIterator[SchemaChecks]:
    async with SchemaChecks() as found:
        yield found


@pytest.fixture
def registry(database: Database, checks: SchemaChecks) -> Registry:
    return Registry(SchemaStore(database), checks)


@pytest.fixture
async def open_api(start_api: StartApi) -> Client:
    return await start_api()


@pytest.fixture
async def client(open_api: Client) -> AsyncIterator[SchemaRegistryClient]:
    """It blocks: call it in a thread."""
    with SchemaRegistryClient({"url": f"{open_api.base_url}/schema-registry", "max.retries": 0}) as found:
        yield found
