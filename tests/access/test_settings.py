"""AUTH, and where the first key comes from."""

import logging
from pathlib import Path

import pytest

from service.api.app import Api
from service.config import Settings
from service.errors import ConfigError
from service.local.greeting import greeting
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, status_with
from tests.support.fixture_types import StartApi
from tests.support.ports import with_closed_port
from tests.support.sse_reader import RETRY_LINE, open_stream

FILE_KEY = "a-key-in-a-file-of-more-than-32-characters"
STORED_KEY = f"trd_{'0' * 12}_{'0' * 48}"
MESSAGE_ID = "00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("auth", "host", "needed"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "localhost", False),
        ("auto", "::1", False),
        ("auto", "0.0.0.0", True),
        ("auto", "::", True),
        ("auto", "10.1.2.3", True),
        ("auto", "api.example.org", True),
        ("required", "127.0.0.1", True),
        ("off", "0.0.0.0", False),
    ],
)
def test_auto_asks_where_others_reach_the_api(auth: str, host: str, needed: bool) -> None:
    assert Settings(auth=auth, host=host).needs_auth is needed  # type: ignore[arg-type]


async def test_a_public_api_without_auth_warns(start_api: StartApi, caplog: pytest.LogCaptureFixture) -> None:
    await start_api(auth="off", host="0.0.0.0")
    [warning] = [record.message for record in caplog.records if "AUTH is off" in record.message]
    assert warning.endswith("every client that reaches the API may do everything")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        await start_api(auth="off")
        await start_api(**CLOSED)
    assert "AUTH" not in caplog.text


async def test_the_first_key_comes_from_a_file(start_api: StartApi, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{FILE_KEY}\n")
    api = await start_api(auth="required", treadle_key_file=path)
    assert [await status_with(api, key) for key in (FILE_KEY, ROOT_KEY)] == [200, 401]


async def test_a_key_of_a_client_in_the_variable_gets_no_further_rights(start_api: StartApi) -> None:
    """The API may be started from a shell in which a client had its own key."""
    first = await start_api(**CLOSED)
    made = await create_key(first, "read")
    api = await start_api(auth="required", treadle_key=made["key"])
    assert await status_with(api, made["key"]) == 200
    assert await status_with(api, made["key"], "/keys") == 403


@pytest.mark.parametrize("text", ["short", "x" * 31, "with a space " * 5, "with\na line " * 5])
def test_a_bad_key_in_a_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^TREADLE_KEY_FILE: Expected at least 32 printable characters"):
        Api(Settings(auth="required", treadle_key_file=path), "postgresql://127.0.0.1:1/x")
    with pytest.raises(ConfigError, match=r"^TREADLE_KEY_FILE: .* cannot be read"):
        Api(Settings(auth="required", treadle_key_file=tmp_path / "none"), "postgresql://127.0.0.1:1/x")


async def test_a_stream_is_told_to_come_back_while_keys_cannot_be_read(start_api: StartApi, dsn: str) -> None:
    """EventSource would give up for good on any answer but 200."""
    api = await start_api(**CLOSED, database_url=with_closed_port(dsn))
    refused = await api.get("/threads", headers=bearer(STORED_KEY))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    async with open_stream(api, f"/messages/{MESSAGE_ID}/stream?token={STORED_KEY}") as stream:
        assert await stream.next() == RETRY_LINE
    assert await status_with(api, "nonsense") == 401


def test_up_says_how_to_get_a_key() -> None:
    assert "Bearer" not in greeting(Settings())
    public = greeting(Settings(host="0.0.0.0"))
    assert "keys create --scope submit,read" in public
    assert public.count('-H "Authorization: Bearer $TREADLE_KEY"') == 2
    assert "keys create" not in greeting(Settings(host="0.0.0.0", treadle_key=ROOT_KEY))
