"""The limit of open files: raised at the start; at the limit the API refuses connections and says so."""

import contextlib
import resource
import subprocess
import sys

import httpx
import pytest

from service import open_files
from service.api import server
from service.open_files import ClientConnections
from tests.support.api_client import Client
from tests.support.waiting import LIMIT_SECONDS

RAISED = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from service import open_files
open_files.raise_limit()
open_files.raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


def test_a_process_raises_its_limit_as_far_as_it_may() -> None:
    ran = subprocess.run([sys.executable, "-c", RAISED], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "True\n"


async def test_an_api_at_its_limit_refuses_connections_and_warns_once(
    api: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await api.get("/health/live")).status_code == 200
    monkeypatch.setattr(server, "client_connections", ClientConnections())
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(open_files, "RESERVED_FILES", limit)
    for _ in range(3):
        async with httpx.AsyncClient(base_url=api.base_url, timeout=LIMIT_SECONDS) as stranger:
            with contextlib.suppress(httpx.TransportError):  # it was closed before the request was sent
                assert (await stranger.get("/health/live")).status_code == 503
    assert (await api.get("/health/live")).status_code == 200  # an open connection stays
    warnings = [record for record in caplog.records if "limit of open files" in record.getMessage()]
    assert [vars(record)["limit"] for record in warnings] == [limit]
    monkeypatch.undo()
    async with httpx.AsyncClient(base_url=api.base_url, timeout=LIMIT_SECONDS) as stranger:
        assert (await stranger.get("/health/live")).status_code == 200
