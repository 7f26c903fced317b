"""docs/types.md: its Python runs as written."""

import asyncio
from typing import Any

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.documents import DOCS, blocks
from tests.support.fixture_types import StartWorker
from tests.support.messages import settled, submit


async def test_the_page_runs_as_written(open_api: Client, start_worker: StartWorker, sql: Connection) -> None:
    code = "\n".join(block.text for block in blocks(DOCS / "types.md", "python"))
    code = code.replace("http://localhost:8000", str(open_api.base_url).rstrip("/"))
    names: dict[str, Any] = {"__name__": "page"}

    def run() -> None:
        exec(compile(code, "docs/types.md", "exec"), names)
        names["client"].__exit__()

    await asyncio.to_thread(run)
    assert names["schema_id"] == 1
    await start_worker(names["first_task"])
    message_id = await submit(sql, {"planId": "p", "steps": [{"stepId": "s"}]}, agent="first_task")
    assert (await settled(sql, message_id))["result"] == {"taskId": "s", "planId": "p"}
