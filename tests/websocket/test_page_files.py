"""The files of the chat page: how they are served, and that their constants are the service's."""

import re
from pathlib import Path

import pytest

from service import limits
from service.dashboard import routes
from service.sockets.peer import CloseCode
from tests.support.api_client import Client

STATIC = Path(routes.__file__).with_name("static")


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir() if path.is_file()))
async def test_every_file_of_the_page_is_served_with_its_policy(api: Client, name: str) -> None:
    response = await api.get(f"/chat/{name}")
    assert response.status_code == 200
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
    assert response.headers["content-type"].startswith(kinds[Path(name).suffix])


async def test_the_page_is_served_at_chat_and_nothing_else_is(api: Client) -> None:
    page = await api.get("/chat")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    slash = await api.get("/chat/")
    assert slash.next_request is not None
    assert slash.next_request.url.path == "/chat"
    assert (await api.get("/chat/no.js")).status_code == 404
    assert (await api.get("/chat/..%2Froutes.py")).status_code == 404


def constant(file: str, name: str) -> str:
    found = re.search(rf"^const {name} = ([^;]+);", (STATIC / file).read_text(), re.MULTILINE)
    assert found is not None, name
    return found[1]


def test_the_page_keeps_the_rule_of_thread_ids() -> None:
    assert int(constant("page.js", "THREAD_ID_MAX_CHARS")) == limits.MAX_THREAD_ID_CHARS
    forbidden = re.compile(constant("page.js", "THREAD_ID_FORBIDDEN").strip("/"))
    differing = [
        code for code in range(0x180) if bool(forbidden.search(chr(code))) == limits.is_thread_id(f"a{chr(code)}b")
    ]
    assert differing == []
    [field] = re.findall(r'<input id="thread"[^>]*maxlength="(\d+)"', (STATIC / "chat.html").read_text())
    assert int(field) == limits.MAX_THREAD_ID_CHARS


def test_the_page_knows_the_close_codes_of_the_server() -> None:
    for name in ("REFUSED", "TOO_BIG"):
        assert int(constant("socket.js", f"CLOSED_AS_{name}")) == CloseCode[name]
    assert int(constant("socket.js", "CLOSED_AS_TRY_LATER")) == CloseCode.TRY_AGAIN_LATER
