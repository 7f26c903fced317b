"""/docs and /redoc show the API's description in a browser without any other host than ours."""

import importlib.util

import pytest
from playwright.async_api import expect

from service.api import openapi
from service.errors import ConfigError
from tests.support.api_client import Client
from tests.support.browser import open_browser


async def test_swagger_ui_is_rendered_offline(api: Client) -> None:
    async with open_browser() as browser:
        page = await browser.new_page()
        for path in ("/docs", "/docs/"):
            await page.goto(f"{api.base_url}{path}")
            await expect(page.locator(".info .title")).to_contain_text("Treadle")
        submit = page.locator(".opblock", has_text="Submit a message").first
        await submit.click()
        await expect(submit.locator(".opblock-body")).to_contain_text("Idempotency-Key")
        await submit.get_by_role("button", name="Try it out").click()
        await submit.locator("textarea").fill('{"message": "from the page"}')
        await submit.get_by_role("button", name="Execute").click()
        await expect(submit.locator(".live-responses-table .response .response-col_status")).to_contain_text("202")


async def test_redoc_is_rendered_offline(api: Client) -> None:
    async with open_browser() as browser:
        page = await browser.new_page()
        for path in ("/redoc", "/redoc/"):
            await page.goto(f"{api.base_url}{path}")
            await expect(page.locator("h1").first).to_contain_text("Treadle")
        await expect(page.get_by_role("heading", name="Submit a message")).to_be_visible()
        await page.locator("[role=search] input").fill("failed message")
        await expect(page.locator("[data-role='search:results']")).to_contain_text("Queue a failed message again")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/swagger.js", "/docs/redoc.standalone.js"])
async def test_reference_pages_have_a_policy(api: Client, path: str) -> None:
    response = await api.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy  # so scripts come from this host only, and none is inline
    if not path.endswith(".js"):
        assert "<title>Treadle API</title>" in response.text
        assert "https://" not in response.text


async def test_unknown_files_of_the_reference_are_404(api: Client) -> None:
    assert (await api.get("/docs/nope.js")).status_code == 404


def test_a_missing_package_of_the_pages_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="The package fastapi-offline is not installed: run pip install"):
        openapi.find_assets()
