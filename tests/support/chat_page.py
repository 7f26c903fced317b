"""The chat page as a person uses it."""

import asyncio
import os
import re
from pathlib import Path

from playwright.async_api import BrowserContext, Locator, Page, expect

SCREENSHOT_FOLDER = os.environ.get("TREADLE_SCREENSHOTS")  # set it while you work on the page


class ChatPage:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.exchanges = page.locator("#exchanges > .exchange")
        self.asides = page.locator(".asides > .exchange")
        self.answers = page.locator("#exchanges > .exchange > .response > .answer:not(.result)")
        self.results = page.locator("#exchanges > .exchange > .response > .result")
        self.hint = page.locator("#hint")
        self.text_field = page.locator("#text")

    @classmethod
    async def open(cls, browser: BrowserContext, port: int, thread: str, *, connected: bool = True) -> "ChatPage":
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/chat#{thread}")
        chat = cls(page)
        if connected:
            await chat.has_connection("Connected")
        return chat

    async def has_connection(self, text: str | re.Pattern[str]) -> None:
        await expect(self.page.locator("#connection")).to_have_text(text)

    async def has_states(self, *states: str) -> None:
        """The states of all exchanges, without asides."""
        await expect(self.exchanges).to_have_count(len(states))
        for number, state in enumerate(states):
            await expect(self.exchanges.nth(number)).to_have_attribute("data-state", state)

    async def choose_agent(self, name: str) -> None:
        await self.page.locator("#agent").select_option(name)

    async def send(self, text: str) -> None:
        await self.text_field.fill(text)
        await self.text_field.press("Enter")

    def tasks(self) -> Locator:
        """The tasks of the last exchange's plan."""
        return self.exchanges.last.locator(".task")

    async def screenshot(self, name: str) -> None:
        if SCREENSHOT_FOLDER:
            content = await self.page.screenshot()
            await asyncio.to_thread(Path(SCREENSHOT_FOLDER, f"{name}.png").write_bytes, content)

    async def close(self) -> None:
        await self.page.close()
