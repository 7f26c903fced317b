"""What a request costs in the API, counted."""

import asyncio
import json
from typing import Any

from service.api.app import Api
from service.config import Settings


async def test_a_request_creates_no_task() -> None:
    """Litestar's task for each dependency of a handler takes as long as all the rest. This request is refused by its
    handler, which has three dependencies."""
    application = Api(Settings(), "postgresql://127.0.0.1:1/x").config.app
    assert callable(application)
    loop = asyncio.get_running_loop()
    created: list[Any] = []

    def count(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> Any:
        created.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    loop.set_task_factory(count)
    try:
        answer = await _post(application, "/messages", {"message": "x", "aside": True})
    finally:
        loop.set_task_factory(None)
    assert "thread_id" in json.loads(answer)["detail"]
    assert created == []


async def _post(application: Any, path: str, value: Any) -> bytes:
    """The body of the answer."""
    body = json.dumps(value).encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    answer = b""

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal answer
        answer += message.get("body", b"")

    await application(scope, receive, send)
    return answer
