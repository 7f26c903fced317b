"""What clients of the older systems expect of the API."""

from tests.support.access import ROOT_KEY, bearer
from tests.support.api_answers import get, problem
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.websocket_client import chat_path_url, chat_url, open_socket


async def test_the_start_tells_programs_and_people_apart(api_with_worker: Client) -> None:
    api = api_with_worker
    assert await get(api, "/") == {"name": "Treadle", "status": "healthy", "docs": "/docs"}
    assert (await get(api, "/health"))["status"] == "healthy"
    page = await api.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.headers["content-type"], page.headers["vary"]) == ("text/html; charset=utf-8", "Accept")
    assert 'href="chat"' in page.text
    assert (await api.get("/docs")).status_code == 200


async def test_the_phase_of_a_thread_follows_its_messages(scripted_api: Client, script: ScriptedAgent) -> None:
    async def phase() -> str:
        return str((await get(scripted_api, "/threads/s"))["phase"])

    message_id = await scripted_api.submit("x", agent="script", session_id="s")
    assert await phase() == "executing"
    # A message that has ended cannot be cancelled; one that is at work ends soon after.
    await scripted_api.settled(message_id, "processing")
    assert (await scripted_api.delete(f"/messages/{message_id}")).status_code == 202
    await scripted_api.settled(message_id)
    assert await phase() == "idle"
    problem(await scripted_api.delete(f"/messages/{message_id}"), 409, "cancelled")
    await scripted_api.settled(await scripted_api.submit("hello", agent="echo", session_id="s"))
    assert await phase() == "refinement_ready"


async def test_a_session_is_a_thread_also_in_tokens(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker()
    api = await start_api(auth="required", treadle_key=ROOT_KEY)
    body = {"scopes": ["read", "submit"], "session_id": "mine"}
    made = await api.post("/tokens", json=body, headers=bearer(ROOT_KEY))
    token = made.json()["token"]
    problem(await api.post("/tokens", json=body | {"thread_id": "t"}, headers=bearer(ROOT_KEY)), 422, "another name")
    async with open_socket(f"{chat_path_url(api, 'mine')}?token={token}") as chat:
        for said in ("hello there", "[1, 2]", '"quoted"'):
            await chat.connection.send(said)
            done = await chat.find(event="done")
            assert done["data"]["result"] == said
        for wrong in ("  ", "{"):
            await chat.connection.send(wrong)
            assert "not valid JSON" in (await chat.find(type="error"))["detail"]
        await chat.send("ping")
        assert await chat.frame() == {"type": "pong"}
    async with open_socket(chat_url(api, None, session_id="mine", token=token, after=9999)) as chat:
        await chat.find(status="open")
        await chat.connection.send("hello there")
        assert "not valid JSON" in (await chat.find(type="error"))["detail"]
