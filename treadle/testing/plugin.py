"""The plugin of pytest. It imports nothing of Treadle until a fixture is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from treadle.testing.context import FakeContext
    from treadle.testing.house import House
    from treadle.testing.server import TestServer


@pytest.fixture(scope="session")
def _treadle_server() -> Iterator[TestServer]:
    from treadle.testing.server import running_server

    with running_server() as server:
        yield server


@pytest.fixture
def treadle_dsn(_treadle_server: TestServer) -> Iterator[str]:
    """The address of an empty database of this test, with the schema of Treadle."""
    with _treadle_server.database(str(os.getpid())) as dsn:
        yield dsn


@pytest.fixture
def treadle_run(_treadle_server: TestServer, treadle_dsn: str) -> Iterator[House]:
    """Run an agent in a real worker: `answer = await treadle_run(agent, message)`."""
    from treadle.testing.house import House

    house = House(treadle_dsn, _treadle_server.loop)
    try:
        yield house
    finally:
        house.close()


@pytest.fixture
def treadle_context() -> FakeContext:
    """A fake context, for an agent that is called as a function."""
    from treadle.testing.context import FakeContext

    return FakeContext()
