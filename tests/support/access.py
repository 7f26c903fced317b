"""Keys and tokens of an API that requires them."""

from collections.abc import Callable
from typing import Any

from tests.support.api_client import Client

ROOT_KEY = "the-key-of-the-tests-with-every-scope"  # as TREADLE_KEY
CLOSED = {"auth": "required", "treadle_key": ROOT_KEY}  # the settings of such an API

PassTime = Callable[[float], None]


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


async def create_key(api: Client, *scopes: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/keys", json={"scopes": scopes, **fields}, headers=bearer(ROOT_KEY))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def create_token(api: Client, credential: str, *scopes: str, **fields: Any) -> str:
    answer = await api.post("/tokens", json={"scopes": scopes, **fields}, headers=bearer(credential))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


async def status_with(api: Client, credential: str, path: str = "/threads") -> int:
    return (await api.get(path, headers=bearer(credential))).status_code
