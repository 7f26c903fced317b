"""A headless Chromium, driven through its DevTools protocol: enough to open a page, to type, and to look."""

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.waiting import until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--window-size=1000,760"),
)


class Tab:
    def __init__(self, connection: ClientConnection, close: str, client: httpx.AsyncClient) -> None:
        self._connection = connection
        self._close = close
        self._client = client
        self._count = 0
        self.trouble: list[str] = []  # what the page's scripts raised

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        await self._connection.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            answer = json.loads(await self._connection.recv())
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.trouble.append(details.get("exception", {}).get("description", details["text"]))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    async def ask(self, expression: str) -> Any:
        """The value of a piece of JavaScript."""
        value, error = await self._evaluate(expression)
        assert error is None, error
        return value

    async def until(self, expression: str, wanted: Any = True) -> None:
        """Until the expression has this value."""
        await until(lambda: self._evaluate(expression), lambda found: found == (wanted, None))

    async def _evaluate(self, expression: str) -> tuple[Any, str | None]:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        failed = "exceptionDetails" in answer
        return answer["result"].get("value"), answer["result"]["description"] if failed else None

    async def type(self, text: str) -> None:
        """Into what has the focus; Enter at its end."""
        await self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)

    async def picture(self) -> bytes:
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    async def close(self) -> None:
        """As a person does it."""
        await self._client.get(self._close)


class Browser:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @contextlib.asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Tab]:
        made = (await self._client.put(f"/json/new?{quote(url, safe='')}")).json()
        async with connect(made["webSocketDebuggerUrl"], compression=None, proxy=None, max_size=None) as connection:
            tab = Tab(connection, f"/json/close/{made['id']}", self._client)
            await tab.call("Runtime.enable")
            yield tab
            assert tab.trouble == [], tab.trouble


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"the page is tested in Chromium, and none of {', '.join(NAMES)} is installed")
    with tempfile.TemporaryDirectory(prefix="treadle-browser-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(program, *FLAGS, f"--user-data-dir={folder}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = Path(folder) / "DevToolsActivePort"

            async def ready() -> bool:
                assert process.returncode is None, "Chromium ended by itself"
                return port.exists() and port.read_text().count("\n") > 0

            await until(ready, seconds=60)
            address = f"http://127.0.0.1:{port.read_text().split()[0]}"
            async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as client:
                yield Browser(client)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
