"""Many chats at once, each disconnecting and reconnecting at random: every transcript is complete and in order.

TREADLE_CHAT_INPUTS says how many inputs each chat has (3): with 100 it is a matter of minutes.
"""

import asyncio
import os
import random

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from service.db.pool import Connection
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.websocket_client import (
    ChatUser,
    Socket,
    assert_whole_transcript,
    chat_url,
    open_socket,
    stored_events,
)

CHATS = 30
INPUTS = int(os.environ.get("TREADLE_CHAT_INPUTS", "3"))
SEED = random.randrange(2**32)


async def talk(person: ChatUser, apis: list[str], chance: random.Random) -> int:
    """Reconnect until every input is sent and answered; returns how often the socket broke."""
    unsaid = [f"{person.thread_id} says this as number {number}" for number in range(INPUTS)]
    cuts = 0
    while unsaid or not person.over:
        url = chance.choice(apis).format(thread_id=person.thread_id, last=person.last)
        try:
            async with open_socket(url) as chat:
                for wanted in list(person.unacknowledged.values()):
                    await chat.send("user_input", **wanted)
                await listen(chat, person, unsaid, chance)
        except (ConnectionClosed, InvalidHandshake, ConnectionError):
            pass
        cuts += 1
    return cuts


async def listen(chat: Socket, person: ChatUser, unsaid: list[str], chance: random.Random) -> None:
    """Send inputs and read some frames, then break the socket."""
    for _ in range(chance.randrange(1, 8)):
        if unsaid and (person.over or chance.random() < 0.4):
            key = person.say(unsaid.pop(0), metadata={"delay_ms": chance.choice([0, 1, 5])})
            await chat.send("user_input", **person.unacknowledged[key])
        if not unsaid and person.over:
            return
        await person.take(await chat.frame(), chat)
    chat.cut()


async def test_chats_that_disconnect_at_random_are_complete(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker()
    clients = [await start_api(), await start_api()]
    apis = [
        chat_url(client, "{thread_id}", after="{last}").replace("%7B", "{").replace("%7D", "}") for client in clients
    ]
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    people = [ChatUser(f"chat-{number}") for number in range(CHATS)]
    async with asyncio.TaskGroup() as group:
        talks = [group.create_task(talk(person, apis, random.Random(chance.random()))) for person in people]
    assert sum(talk.result() for talk in talks) > 2 * CHATS  # otherwise the test shows nothing
    print(f"{sum(talk.result() for talk in talks)} cuts, {sum(len(person.retries) for person in people)} retries")
    for person in people:
        assert person.errors == []
        assert len(person.messages) == INPUTS
        words = len(f"{person.thread_id} says this as number 1".split())
        assert_whole_transcript(person.frames, await stored_events(clients[0], person.thread_id, INPUTS * (3 + words)))
    assert await sql.fetchval("select count(*) from treadle.messages") == CHATS * INPUTS
