"""A headless Chromium for tests of pages, driven by Playwright."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, Request, Route, WebError, async_playwright, expect

from tests.support.requirements import require_or_skip
from tests.support.waiting import LIMIT_SECONDS

FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
WINDOW = {"width": 1000, "height": 760}
PATIENCE_SECONDS = LIMIT_SECONDS  # for what a page must show

expect.set_options(timeout=PATIENCE_SECONDS * 1000)


def _chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextlib.asynccontextmanager
async def open_browser(**options: object) -> AsyncIterator[BrowserContext]:
    """A browser with an empty profile; `options` are those of Playwright's `new_context`.

    Fails the test at its end where a page's script raised, or where a page asked another host for anything. Such
    requests never leave the browser.
    """
    program = require_or_skip(_chromium(), "Chromium: install Debian's package chromium, or set CHROMIUM to its path")
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=flags, timeout=PATIENCE_SECONDS * 1000)
        context = await browser.new_context(**{"viewport": WINDOW, **options})  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        script_errors: list[str] = []
        foreign_requests: list[str] = []

        def note_error(error: WebError) -> None:
            script_errors.append(str(error.error))

        def note_request(request: Request) -> None:
            if _is_foreign(request.url):
                foreign_requests.append(request.url)

        async def abort(route: Route) -> None:
            await route.abort()

        context.on("weberror", note_error)
        context.on("request", note_request)
        await context.route(_is_foreign, abort)
        try:
            yield context
            assert script_errors == []
            assert foreign_requests == []
        finally:
            await context.close()
            await browser.close()


def _is_foreign(url: str) -> bool:
    address = urlsplit(url)
    return address.scheme in {"http", "https", "ws", "wss"} and not _is_loopback(address.hostname)


def _is_loopback(host: str | None) -> bool:
    """Browsers resolve names below localhost by themselves."""
    return host in {"127.0.0.1", "localhost"} or (host is not None and host.endswith(".localhost"))
