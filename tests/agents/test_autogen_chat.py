"""A chat with a team over a socket that breaks: typed messages both ways, the whole transcript after coming back."""

from typing import Any

from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from service.agents.adapters.autogen.agent import AgentOutput, Kit, UserInput, autogen_agent
from service.agents.contract import Context
from tests.agents.test_autogen import Model, agent
from tests.conftest import StartApi, StartWorker
from tests.support.chat_clients import address, chatting, events


async def test_a_team_chat_over_a_socket_that_breaks(start_api: StartApi, start_worker: StartWorker) -> None:
    model = Model("A red bicycle", "Shorter", "A bike", "APPROVE", "Two bikes", "APPROVE")

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(model)
        members: list[Any] = [agent(name, own, model_client_stream=True) for name in ("writer", "critic")]
        return RoundRobinGroupChat(members, termination_condition=TextMentionTermination("APPROVE"), max_turns=9)

    def task(context: Context, message: UserInput) -> str:
        return f"{message.source}: {message.content}"

    await start_worker(autogen_agent("slogans", make, input=task, output=AgentOutput.of, keep_state=True))
    api = await start_api()
    seen: list[dict[str, Any]] = []
    for number, wish in enumerate(("Write.", "Make it two."), 1):
        async with chatting(address(api, "t", after=len(seen))) as chat:
            await chat.send("user_input", message={"content": wish, "source": "ada"}, agent="slogans", key=f"{number}")
            seen += events(await chat.until(event="message"))
            chat.cut()  # in the middle of the answer
        async with chatting(address(api, "t", after=len(seen))) as chat:
            await chat.send("user_input", message={"content": wish, "source": "ada"}, agent="slogans", key=f"{number}")
            seen += events(await chat.until(event="done"))
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
    async with chatting(address(api, "t")) as chat:  # a tab opened anew
        again = events(await chat.until(id=len(seen)))
    assert again == seen
