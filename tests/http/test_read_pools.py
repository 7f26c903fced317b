"""What a GET reads, it reads with connections that no write needs."""

import asyncio
import re
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from service.access.principal import AUTH_OFF
from service.api.app import Api
from service.config import Settings
from service.db.pool import Connection, Database
from service.events.store import GROWN, READ
from service.threads.logs import ThreadLogs
from service.threads.store import ThreadStore
from tests.support.fixture_types import RegisterAgents, StartApi

OF_WRITES = "api"  # the name of the pool `calls`
OF_FEED = {READ, GROWN}  # one query at a time for all that read a log


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pools that were asked, and the statements."""
    found: list[tuple[str, str]] = []
    for name in ("fetch", "fetchrow", "fetchval"):
        original = getattr(Database, name)

        async def noted(self: Database, query: str, *args: Any, original: Any = original, **more: Any) -> Any:
            found.append((self.name, query))
            return await original(self, query, *args, **more)

        monkeypatch.setattr(Database, name, noted)
    return found


def paths() -> list[str]:
    """Of all GETs that end, also of those that the description does not show."""
    return [
        re.sub(r":\w+}", "}", route.path)
        for route in Api(Settings(), "postgresql://127.0.0.1/none").app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "GET" in handler.http_methods
        and not handler.opt.get("is_stream")
        and not re.search("stream|join", route.path)
    ]


async def test_no_get_takes_a_connection_of_writes(
    asked: list[tuple[str, str]], start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents()
    api = await start_api()
    await sql.execute("select treadle.create_topic('t'), treadle.create_subscription('s', array['t'], 'echo')")
    thread = "11111111-1111-7111-8111-111111111111"
    message = str(await sql.fetchval("select treadle.submit('x', thread_id => $1)", thread))
    known = {"message_id": message, "run_id": message, "thread_id": thread, "topic": "t", "agent": "echo"}
    known |= {"webhook_id": message, "tenant": "default"}
    known |= {"conversation_id": f"conv_{thread.replace('-', '')}", "response_id": f"resp_{message.replace('-', '')}"}
    known |= {"assistant_id": "echo", "name": "default", "subject": "s", "task_id": message, "id": message}
    reached = 0
    wrong = set()
    for path in paths():
        address = re.sub(r"{(\w+)}", lambda match: known.get(match[1], "1"), path)
        asked.clear()
        answer = await api.get(address)
        assert answer.status_code < 500, (path, answer.text)
        reached += bool(asked)
        wrong |= {(path, query.strip()[:80]) for pool, query in asked if pool == OF_WRITES and query not in OF_FEED}
    assert reached > 40
    assert not wrong


async def test_sockets_that_wait_for_their_threads_share_a_query(
    asked: list[tuple[str, str]], database: Database
) -> None:
    """Each of them asks once a second, and any client can open many."""
    logs = ThreadLogs(ThreadStore(database))
    assert await asyncio.gather(*(logs.find(AUTH_OFF, f"t{number}") for number in range(50))) == [None] * 50
    assert len(asked) == 1
