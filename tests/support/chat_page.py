"""The chat page in a browser: choose an agent, and keep screenshots."""

import asyncio
import os
from pathlib import Path

from tests.support.browser import Tab

SCREENSHOTS = os.environ.get("TREADLE_PICTURES")  # a folder that keeps them
CONNECTION = "document.querySelector('#connection').textContent"


async def save_screenshot(tab: Tab, name: str) -> None:
    if SCREENSHOTS:
        content = await tab.picture()
        await asyncio.to_thread(Path(SCREENSHOTS, f"{name}.png").write_bytes, content)


async def choose_agent(tab: Tab, name: str) -> None:
    await tab.until(f"[...document.querySelector('#agent').options].some((option) => option.value == '{name}')")
    await tab.ask(
        f"document.querySelector('#agent').value = '{name}';"
        "document.querySelector('#agent').dispatchEvent(new Event('change'));"
        "document.querySelector('#text').focus()"
    )
