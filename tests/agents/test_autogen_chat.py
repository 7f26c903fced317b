"""A chat with a team over a socket that breaks: typed messages in both directions, the whole log after reconnecting."""

from typing import Any

from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from tests.support.autogen_models import ReplayModel, assistant
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.websocket_client import chat_url, log_frames, open_socket
from treadle import Context
from treadle.adapters import AgentOutput, Kit, UserInput, autogen_agent


async def test_a_team_chat_over_a_socket_that_breaks(start_api: StartApi, start_worker: StartWorker) -> None:
    model = ReplayModel("A red bicycle", "Shorter", "A bike", "APPROVE", "Two bikes", "APPROVE")

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(model)
        members: list[Any] = [assistant(name, own, model_client_stream=True) for name in ("writer", "critic")]
        return RoundRobinGroupChat(members, termination_condition=TextMentionTermination("APPROVE"), max_turns=9)

    def task(context: Context, message: UserInput) -> str:
        return f"{message.source}: {message.content}"

    await start_worker(autogen_agent("slogans", make, input=task, output=AgentOutput.of, keep_state=True))
    api = await start_api()
    seen: list[dict[str, Any]] = []
    for number, wish in enumerate(("Write.", "Make it two."), 1):
        async with open_socket(chat_url(api, "t", after=len(seen))) as chat:
            await chat.send("user_input", message={"content": wish, "source": "ada"}, agent="slogans", key=f"{number}")
            seen += log_frames(await chat.until(event="message"))
            chat.cut()  # in the middle of the answer
        async with open_socket(chat_url(api, "t", after=len(seen))) as chat:
            await chat.send("user_input", message={"content": wish, "source": "ada"}, agent="slogans", key=f"{number}")
            seen += log_frames(await chat.until(event="done"))
    assert [frame["id"] for frame in seen] == list(range(1, len(seen) + 1))
    transcript = [(frame["data"]["source"], frame["data"]["content"]) for frame in seen if frame["event"] == "message"]
    assert transcript == [
        ("user", "ada: Write."),
        ("writer", "A red bicycle"),
        ("critic", "Shorter"),
        ("writer", "A bike"),
        ("critic", "APPROVE"),
        ("user", "ada: Make it two."),
        ("writer", "Two bikes"),
        ("critic", "APPROVE"),
    ]
    results = [frame["data"]["result"] for frame in seen if frame["event"] == "done"]
    assert [(result["source"], result["content"]) for result in results] == [("critic", "APPROVE")] * 2
    assert all("APPROVE" in result["stop_reason"] for result in results)
    assert any("A bike" in text for text in model.asked[4])  # the team remembers
    async with open_socket(chat_url(api, "t")) as chat:  # a new tab
        again = log_frames(await chat.until(id=len(seen)))
    assert again == seen
