"""The pages of an API that requires a key, in a browser."""

import asyncio

from playwright.async_api import Page, Route, expect

from tests.support.access import ROOT_KEY, create_token
from tests.support.api_client import Client
from tests.support.browser import open_browser
from tests.support.chat_page import ChatPage


async def test_swagger_sends_the_key_of_its_authorize_button(closed_api: Client) -> None:
    async with open_browser() as browser:
        page = await browser.new_page()
        await page.goto(f"{closed_api.base_url}/docs")
        assert await status_of_list(page) == "401"
        await page.get_by_role("button", name="Authorize").click()
        await page.get_by_label("auth-bearer-value").fill(ROOT_KEY)
        await page.get_by_role("button", name="Apply credentials").first.click()
        await page.get_by_role("button", name="Close").first.click()
        assert await status_of_list(page) == "200"


async def status_of_list(page: Page) -> str:
    """The status with which the page shows that the list of threads is answered."""
    block = page.locator("#operations-Threads-listThreads")
    if await block.get_by_role("button", name="Execute").count() == 0:
        await block.click()
        await block.get_by_role("button", name="Try it out").click()
    else:
        await block.get_by_role("button", name="Clear").click()
    await block.get_by_role("button", name="Execute").click()
    status = block.locator(".live-responses-table .response .response-col_status")
    await expect(status).to_be_visible()
    return (await status.inner_text()).split()[0]


async def test_the_chat_page_asks_for_a_key(closed_api: Client) -> None:
    port = int(closed_api.base_url.port or 0)
    async with open_browser() as browser:
        chat = await ChatPage.open(browser, port, "t", connected=False)
        await chat.has_connection("Needs a key")
        await chat.page.get_by_label("Key").fill("nonsense")
        await chat.page.get_by_role("button", name="Use").click()
        await chat.has_connection("Needs a key")
        await chat.page.get_by_label("Key").fill(ROOT_KEY)
        await chat.page.get_by_role("button", name="Use").click()
        await chat.has_connection("Connected")
        await chat.send("hello")
        await chat.has_states("waiting")
        await chat.page.reload()
        await chat.has_connection("Connected")  # the tab keeps the key


async def test_the_chat_page_passes_over_a_late_refusal_of_another_key(closed_api: Client) -> None:
    go_on = asyncio.Event()

    async def hold(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer nonsense":
            await go_on.wait()
        await route.continue_()

    async with open_browser() as browser:
        chat = await ChatPage.open(browser, int(closed_api.base_url.port or 0), "t", connected=False)
        await chat.has_connection("Needs a key")
        await chat.page.route("**/threads?*", hold)
        for key in ("nonsense", ROOT_KEY):
            await chat.page.get_by_label("Key").fill(key)
            await chat.page.get_by_role("button", name="Use").click()
        await chat.has_connection("Connected")
        async with chat.page.expect_response(lambda answer: answer.status == 401) as late:
            go_on.set()
        await late.value
        await chat.send("hello")
        await chat.has_states("waiting")
        await expect(chat.page.get_by_label("Key")).to_be_hidden()


async def test_the_chat_page_takes_a_token_from_its_address(closed_api: Client) -> None:
    token = await create_token(closed_api, ROOT_KEY, "read", "submit", thread_id="t")
    async with open_browser() as browser:
        page = await browser.new_page()
        await page.goto(f"{closed_api.base_url}/chat?token={token}#t")
        chat = ChatPage(page)
        await chat.has_connection("Connected")
        assert page.url == f"{closed_api.base_url}/chat#t"
        await chat.send("hello")
        await chat.has_states("waiting")
