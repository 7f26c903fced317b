"""Inputs while an agent is busy: the agent that it names for this time answers them, unless the client decides
otherwise."""

from typing import Any

import pytest

from tests.support.api_client import Client
from tests.support.scripted_model import QUERY, ScriptedModel, ask_resolver, has_event
from tests.support.websocket_client import Socket, chat_url, open_socket
from treadle import RetryAfter

PACE = {"metadata": {"pace_ms": 0}}


async def said(chat: Socket, text: str, **fields: Any) -> dict[str, Any]:
    """Send an input; returns its `accepted` or `error` frame."""
    await chat.send("user_input", text=text, key=text, **PACE, **fields)
    return await chat.answer(key=text)


async def agent_of(api: Client, accepted: dict[str, Any]) -> tuple[str, bool]:
    row = await api.status(accepted["message_id"])
    return row["agent"], row["aside"]


async def test_the_clarifier_answers_while_the_team_is_busy(resolver_api: Client, model: ScriptedModel) -> None:
    model.hold("task t1")
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        first = await said(chat, QUERY, agent="resolver")
        assert "agent" not in first
        await model.holds("task t1")
        for number, fields in enumerate([{}, {"agent": "resolver"}, {"agent": "clarifier"}]):
            accepted = await said(chat, f"How far are you? {number}", **fields)
            assert accepted["agent"] == "clarifier"
            assert await agent_of(resolver_api, accepted) == ("clarifier", True)
            done = await chat.find(event="done")
            assert done["message_id"] == accepted["message_id"]
            assert "The team is at work" in done["data"]["result"]
        assert (await resolver_api.status(first["message_id"]))["state"] == "processing"
        model.let_go()
        assert (await chat.find(event="done"))["message_id"] == first["message_id"]
        after = await said(chat, "Make it shorter", agent="resolver")
        assert "agent" not in after
        assert await agent_of(resolver_api, after) == ("resolver", False)


async def test_the_client_can_choose_turn_or_aside_itself(resolver_api: Client, model: ScriptedModel) -> None:
    model.hold("task t1")
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        await said(chat, QUERY, agent="resolver")
        await model.holds("task t1")
        turn = await said(chat, "Make it shorter", agent="resolver", aside=False)
        other = await said(chat, "echoed in its turn", agent="echo")  # the client names a third agent
        aside = await said(chat, "echoed at once", agent="echo", aside=True)
        assert "agent" not in {**turn, **other, **aside}
        assert await agent_of(resolver_api, turn) == ("resolver", False)
        assert await agent_of(resolver_api, other) == ("echo", False)
        assert await agent_of(resolver_api, aside) == ("echo", True)
        done = await chat.find(event="done")
        assert (done["message_id"], done["data"]["result"]) == (aside["message_id"], "echoed at once")
        model.let_go()
        await resolver_api.settled(other["message_id"])


async def test_an_object_goes_to_the_agent_that_the_client_names(resolver_api: Client, model: ScriptedModel) -> None:
    model.hold("task t1")
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        await said(chat, QUERY, agent="resolver")
        await model.holds("task t1")
        await chat.send("user_input", message={"an": "object"}, agent="resolver", key="object")
        refused = await chat.answer(key="object")
        assert refused["detail"] == "The agent 'resolver' takes text, not an object."
        model.let_go()


async def test_an_agent_between_two_attempts_counts_as_busy(resolver_api: Client, model: ScriptedModel) -> None:
    model.fail("task t2", RetryAfter(1000, "Later."))
    message_id = await ask_resolver(resolver_api)
    await has_event(resolver_api, message_id, "retry", attempt=1)
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        assert (await said(chat, "Well?"))["agent"] == "clarifier"


async def test_an_agent_that_has_not_started_does_not_count_as_busy(resolver_api: Client, model: ScriptedModel) -> None:
    await ask_resolver(resolver_api, delay_seconds=0)
    message_id = await ask_resolver(resolver_api, thread_id="u", delay_seconds=1000)
    async with open_socket(chat_url(resolver_api, "u")) as chat:
        assert "agent" not in await said(chat, "Hello?", agent="echo")
        assert (await chat.find(event="done"))["data"]["result"] == "Hello?"
    assert (await resolver_api.status(message_id))["state"] == "queued"


@pytest.mark.parametrize("while_busy", [None, "unknown"])
async def test_inputs_wait_for_an_agent_that_names_no_other(
    resolver_api: Client, model: ScriptedModel, sql: Any, while_busy: str | None
) -> None:
    await sql.execute(
        "update treadle.agents set settings = jsonb_strip_nulls(jsonb_build_object('while_busy', $1::text))"
        " where agent = 'resolver'",
        while_busy,
    )
    model.hold("task t1")
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        await said(chat, QUERY, agent="resolver")
        await model.holds("task t1")
        waits = await said(chat, "How far are you?", agent="resolver")
        assert "agent" not in waits
        assert await agent_of(resolver_api, waits) == ("resolver", False)
        model.let_go()
        await resolver_api.settled(waits["message_id"])


async def test_a_repeated_input_returns_its_first_message(resolver_api: Client, model: ScriptedModel) -> None:
    """Also where a new input would by now go to another agent."""
    model.hold("task t1")
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        first = await said(chat, QUERY, agent="resolver")
        await model.holds("task t1")
        again = await said(chat, QUERY, agent="resolver")
        assert (again["message_id"], "agent" in again) == (first["message_id"], False)
        aside = await said(chat, "How far are you?")
        assert await said(chat, "How far are you?") == aside
        model.let_go()
        await resolver_api.settled(first["message_id"])
        again = await said(chat, "How far are you?")
        assert again["message_id"] == aside["message_id"]
    page = (await resolver_api.get("/threads/t/messages")).json()
    assert page["total_messages"] == 2


async def test_an_invalid_aside_is_refused(resolver_api: Client) -> None:
    async with open_socket(chat_url(resolver_api, "t")) as chat:
        refused = await said(chat, "Hello", aside="yes")
        assert refused["type"] == "error"
        assert refused["detail"] == (
            "aside must be true, false, or left out so that a busy agent can name another one to answer."
        )
