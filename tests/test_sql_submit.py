"""Submit: order, turns, priorities, batches, repetition, locks held by others, refusals, positions."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from invariants import assert_consistent
from loom import Loom


async def refused(loom: Loom, *messages: Any, state: str = "TR422", **arguments: Any) -> str:
    """The whole batch is refused and nothing changes; returns the sentence."""
    before = await loom.everything()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await loom.submit_many(*messages, **arguments)
    assert raised.value.sqlstate == state
    assert await loom.everything() == before
    return str(raised.value)


async def order(loom: Loom) -> list[UUID]:
    """The order in which messages run, one after the other."""
    ran = []
    while claims := await loom.run(1):
        ran.append(claims[0].message_id)
    return ran


# Order and turns


async def test_places_in_a_thread_are_given_in_the_order_of_submission(loom: Loom) -> None:
    first = await loom.submit(thread_id="t")
    rows = await loom.submit_many(*[{"thread_id": "t"}] * 3)
    last = await loom.submit(thread_id="t")
    ids = [first, *[row["message_id"] for row in rows], last]
    assert [(await loom.message(id))["ord"] for id in ids] == [1, 2, 3, 4, 5]
    assert await order(loom) == ids


async def test_a_thread_runs_by_priority_and_then_by_place(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    priorities = ["low", "normal", "high", "low", "normal", "high"]
    ids = [await loom.submit(thread_id="t", priority=priority) for priority in priorities]
    await loom.finish(claim)
    assert await order(loom) == [ids[n] for n in (2, 5, 1, 4, 0, 3)]


async def test_the_first_turn_of_a_batch_goes_to_its_highest_priority(loom: Loom) -> None:
    rows = await loom.submit_many(
        {"thread_id": "t", "priority": "low"},
        {"thread_id": "t", "priority": "high", "delay_seconds": 9},
        {"thread_id": "t", "priority": "high", "aside": True},
        {"thread_id": "t"},
        {"thread_id": "t"},
    )
    low, delayed, aside, one, two = [row["message_id"] for row in rows]
    assert (await loom.thread("t"))["turn"] == one
    assert [(await loom.message(id))["hold"] for id in (low, delayed, aside, one, two)] == [
        "thread",
        "delay",
        None,
        None,
        "thread",
    ]
    assert [(await loom.message(id))["ord"] for id in (low, delayed, aside, one, two)] == [1, 2, 3, 4, 5]
    assert await order(loom) == [aside, one, two, low]


async def test_an_unstarted_head_gives_way_to_a_higher_priority(loom: Loom) -> None:
    low = await loom.submit(thread_id="t", priority="low")
    normal = await loom.submit(thread_id="t")
    assert (await loom.thread("t"))["turn"] == normal
    assert await loom.state(low) == ("queued", "thread")
    assert await loom.lanes() == [[], [normal], []]
    await assert_consistent(loom.sql)
    high = await loom.submit(thread_id="t", priority="high")
    assert await loom.lanes() == [[high], [], []]
    assert await order(loom) == [high, normal, low]


async def test_a_head_does_not_give_way_to_its_equal(loom: Loom) -> None:
    head = await loom.submit(thread_id="t")
    await loom.submit(thread_id="t")
    assert (await loom.thread("t"))["turn"] == head


@pytest.mark.parametrize("start", ["running", "released", "backoff", "admitted"])
async def test_a_started_head_does_not_give_way(loom: Loom, start: str) -> None:
    head = await loom.submit(thread_id="t", priority="low")
    claim = await loom.claim_one()
    if start == "released":
        await loom.finish(claim, outcome="released")
    elif start in ("backoff", "admitted"):
        await loom.finish(claim, outcome="error", delay=0 if start == "admitted" else 60)
        await loom.sql.fetchval("select treadle.admit_due()")
    await loom.submit(thread_id="t", priority="high")
    assert (await loom.thread("t"))["turn"] == head


async def test_a_head_that_a_worker_takes_just_now_does_not_give_way(loom: Loom) -> None:
    head = await loom.submit(thread_id="t", priority="low")
    other = await loom.connect()
    async with other.sql.transaction():
        claim = await other.claim_one()
        # The claim holds the thread's log, and this submit needs it: it goes on once the claim has committed.
        submitting = asyncio.create_task(loom.submit(thread_id="t", priority="high"))
        await (await loom.connect()).until_blocked(loom)
    high = await submitting
    assert (await loom.thread("t"))["turn"] == head == claim.message_id
    assert await loom.state(high) == ("queued", "thread")
    await loom.finish(claim)
    assert (await loom.thread("t"))["turn"] == high


async def test_a_message_aside_takes_no_turn_but_belongs_to_the_thread(loom: Loom) -> None:
    head = await loom.submit(thread_id="t")
    aside = await loom.submit(thread_id="t", aside=True)
    assert {claim.message_id for claim in await loom.claim(10)} == {head, aside}
    assert (await loom.message(aside))["ord"] == 2
    thread = await loom.thread("t")
    assert (thread["turn"], thread["last_ord"]) == (head, 2)
    rows = await loom.sql.fetch("select * from treadle.read_thread_events(array[$1::bigint], '{0}', 100)", thread["id"])
    assert aside in {row["message_id"] for row in rows}


async def test_a_delayed_message_takes_its_place_when_it_is_due(loom: Loom) -> None:
    delayed = await loom.submit(thread_id="t", delay_seconds=10)
    head = await loom.submit(thread_id="t")
    waiting = await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    await loom.shift(11)
    assert await loom.sql.fetchval("select treadle.admit_due()") == 1
    assert await loom.state(delayed) == ("queued", "thread")
    assert (await loom.thread("t"))["turn"] == head
    await loom.finish(claim)
    assert await order(loom) == [delayed, waiting]


async def test_a_delayed_message_of_higher_priority_swaps_an_unstarted_head_when_due(loom: Loom) -> None:
    delayed = await loom.submit(thread_id="t", delay_seconds=10, priority="high")
    head = await loom.submit(thread_id="t")
    await loom.shift(11)
    await loom.sql.fetchval("select treadle.admit_due()")
    assert (await loom.thread("t"))["turn"] == delayed
    assert await order(loom) == [delayed, head]


async def test_a_delay_too_short_to_be_one_breaks_no_turn(loom: Loom) -> None:
    """Less than a microsecond is nothing to PostgreSQL's clock."""
    for _ in range(2):
        await loom.submit(thread_id="t", delay_seconds=1e-9)
    await assert_consistent(loom.sql)
    assert len(await loom.claim(10)) == 1


# Batches


async def test_a_batch_may_mix_queues_agents_and_threads(loom: Loom) -> None:
    await loom.register({"agent": "other", "queue": "side", "timeout_seconds": 5, "max_attempts": 9})
    rows = await loom.submit_many(
        {"message": "1", "thread_id": "t"},
        {"message": "2", "agent": "other", "priority": "high"},
        {"message": "3", "agent": "other", "thread_id": "t"},
        {"message": "4", "thread_id": "u", "priority": "low"},
        {"message": "5"},
        {"message": "6", "agent": "echo", "thread_id": "u"},
    )
    ids = [row["message_id"] for row in rows]
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["queue"] for row in rows] == ["default", "side", "side", "default", "default", "default"]
    assert [row["thread_id"] for row in rows] == ["t", None, "t", "u", None, "u"]
    assert {row["state"] for row in rows} == {"queued"}
    assert rows[0]["thread"] == (await loom.thread("t"))["id"]
    messages = [await loom.message(id) for id in ids]
    assert [message["body"] for message in messages] == ["1", "2", "3", "4", "5", "6"]
    assert [message["ord"] for message in messages] == [1, None, 2, 1, None, 2]
    assert [message["hold"] for message in messages] == [None, None, "thread", "thread", None, None]
    assert [(message["timeout_seconds"], message["max_attempts"]) for message in messages[:2]] == [(60, 3), (5, 9)]
    assert await loom.lanes() == [[], [ids[0], ids[4], ids[5]], []]
    assert await loom.lanes("side") == [[ids[1]], [], []]
    # The thread goes on in the queue of its next message's agent.
    await loom.run()
    assert await loom.lanes("side") == [[ids[1]], [ids[2]], []]


async def test_an_empty_batch_is_no_harm(loom: Loom) -> None:
    assert await loom.submit_many() == []


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_all_or_nothing(loom: Loom, place: int) -> None:
    messages: list[dict[str, Any]] = [{"thread_id": "t"}, {"thread_id": "t"}]
    messages.insert(place, {"thread_id": "t", "priority": "urgent"})
    await refused(loom, *messages)


# Repetition


async def test_a_repeated_submit_writes_nothing_and_answers_with_the_present_state(loom: Loom) -> None:
    ids = [str(uuid4()) for _ in range(3)]
    threads = ("t", "t", None)
    messages = [{"message_id": id, "thread_id": thread} for id, thread in zip(ids, threads, strict=True)]
    rows = await loom.submit_many(*messages)
    assert [str(row["message_id"]) for row in rows] == ids
    for claim in await loom.claim(1):
        await loom.finish(claim)
    before = await loom.everything()
    again = await loom.submit_many(*messages)
    assert await loom.everything() == before
    assert [row["state"] for row in again] == ["completed", "queued", "queued"]
    assert [row["queue_position"] for row in again] == [None, 1, 0]
    for name in ("message_id", "queue", "created_at", "thread_id", "thread"):
        assert [row[name] for row in again] == [row[name] for row in rows]


async def test_a_batch_half_of_which_is_there(loom: Loom) -> None:
    known = str(await loom.submit(thread_id="t"))
    rows = await loom.submit_many({"thread_id": "t"}, {"message_id": known, "thread_id": "t"}, {"thread_id": "t"})
    assert [(await loom.message(row["message_id"]))["ord"] for row in rows] == [2, 1, 3]


async def test_ids_are_made_where_there_are_none(loom: Loom) -> None:
    given = str(uuid4())
    rows = await loom.submit_many({"message_id": given}, {}, {"message_id": None})
    ids = [row["message_id"] for row in rows]
    assert str(ids[0]) == given
    assert [id.version for id in ids[1:]] == [7, 7]
    assert len(set(ids)) == 3


async def test_the_same_submit_at_once_from_two_is_written_once(loom: Loom) -> None:
    one, two = await loom.connect(), await loom.connect()
    message = {"message_id": str(uuid4()), "thread_id": "t"}
    async with one.sql.transaction():
        await one.submit_many(message)
        second = asyncio.create_task(two.submit_many(message))
        await loom.until_blocked(two)
    with pytest.raises(asyncpg.UniqueViolationError):  # the pool tries again on this
        await second
    assert (await two.submit_many(message))[0]["state"] == "queued"
    assert (await loom.thread("t"))["last_ord"] == 1


# Under an Idempotency-Key


async def once(loom: Loom, *messages: Any, key: str = "k", digest: bytes = b"1") -> tuple[Any, bool]:
    row = await loom.sql.fetchrow(
        "select * from treadle.submit_once($1, $2, $3)", key, digest, json.dumps(messages or [{"message": "hello"}])
    )
    return row["answer"], row["repeated"]


async def test_submit_once_answers_a_repeat_with_the_first_answer(loom: Loom) -> None:
    answer, repeated = await once(loom)
    assert not repeated
    assert [(row["state"], row["queue_position"]) for row in answer] == [("queued", 0)]
    await loom.run()
    before = await loom.everything()
    assert await once(loom) == (answer, True)
    assert await loom.everything() == before
    other, repeated = await once(loom, key="l")
    assert not repeated
    assert other[0]["message_id"] != answer[0]["message_id"]


async def test_submit_once_refuses_another_body_under_the_key(loom: Loom) -> None:
    await once(loom)
    before = await loom.everything()
    with pytest.raises(asyncpg.PostgresError, match="This Idempotency-Key was used with another body") as raised:
        await once(loom, digest=b"2")
    assert raised.value.sqlstate == "TR422"
    assert await loom.everything() == before


async def test_a_refused_submit_keeps_no_key(loom: Loom) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await once(loom, {"message": ""})
    assert not (await once(loom, digest=b"2"))[1]


async def test_a_key_is_forgotten_after_a_day(loom: Loom) -> None:
    first, _ = await once(loom)
    await loom.shift(23 * 3600)
    assert (await once(loom))[1]
    await loom.shift(25 * 3600)
    second, repeated = await once(loom, digest=b"2")
    assert not repeated
    assert second[0]["message_id"] != first[0]["message_id"]
    assert (await once(loom, digest=b"2")) == (second, True)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_concurrent_repeat_waits_for_the_first(loom: Loom, ending: str) -> None:
    one, two = await loom.connect(), await loom.connect()
    transaction = one.sql.transaction()
    await transaction.start()
    answer, _ = await once(one)
    second = asyncio.create_task(once(two))
    await loom.until_blocked(two)
    await getattr(transaction, ending)()
    if ending == "commit":
        assert await second == (answer, True)
    else:
        assert not (await second)[1]
    assert await loom.sql.fetchval("select count(*) from treadle.messages") == 1


async def test_a_concurrent_repeat_does_not_wait_for_ever(loom: Loom) -> None:
    one, two = await loom.connect(), await loom.connect()
    async with one.sql.transaction():
        await once(one)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await once(two)


# Threads that others hold


async def test_an_impatient_batch_passes_over_held_threads(loom: Loom) -> None:
    other = await loom.connect()
    for thread_id in ("t", "u"):
        await loom.submit(thread_id=thread_id)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for no key update")
        rows = await loom.submit_many(
            {"thread_id": "u"}, {"thread_id": "t"}, {}, {"thread_id": "t"}, {"thread_id": "new"}, patient=False
        )
    assert [row["state"] for row in rows] == ["queued", "busy", "queued", "busy", "queued"]
    assert [row["message_id"] is None for row in rows] == [False, True, False, True, False]
    assert [row["thread_id"] for row in rows] == ["u", "t", None, "t", "new"]
    assert (await loom.thread("t"))["last_ord"] == 1
    assert (await loom.thread("u"))["last_ord"] == 2


async def test_an_impatient_batch_of_busy_messages_alone_writes_nothing(loom: Loom) -> None:
    other = await loom.connect()
    await loom.submit(thread_id="t")
    before = await loom.everything()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for no key update")
        rows = await loom.submit_many({"thread_id": "t"}, patient=False)
    assert [(row["state"], row["message_id"]) for row in rows] == [("busy", None)]
    assert await loom.everything() == before


async def test_a_repeat_in_a_busy_thread_is_known_all_the_same(loom: Loom) -> None:
    other = await loom.connect()
    message = {"message_id": str(uuid4()), "thread_id": "t"}
    await loom.submit_many(message)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for no key update")
        assert [row["state"] for row in await loom.submit_many(message, patient=False)] == ["queued"]


async def test_an_impatient_batch_passes_over_a_thread_that_is_just_being_made(loom: Loom) -> None:
    other = await loom.connect()
    async with other.sql.transaction():
        await other.submit(thread_id="new")
        await loom.sql.execute("set statement_timeout = '5s'")
        rows = await loom.submit_many({"thread_id": "new"}, {}, {"thread_id": "other"}, patient=False)
        await loom.sql.execute("reset statement_timeout")
        assert rows[0]["state"] == "busy"
        assert rows[1]["state"] == "queued"
    alone = await loom.submit_many({"thread_id": "other"}, {"thread_id": "new"}, patient=False)
    assert [row["state"] for row in alone] == ["queued", "queued"]


async def test_a_patient_submit_waits_for_the_thread(loom: Loom) -> None:
    other = await loom.connect()
    await loom.submit(thread_id="t")
    async with other.sql.transaction():
        first = await other.submit(thread_id="t")
        waiting = asyncio.create_task(loom.submit(thread_id="t"))
        await (await loom.connect()).until_blocked(loom)
    second = await waiting
    assert [(await loom.message(id))["ord"] for id in (first, second)] == [2, 3]


# In a user's own transaction

SUBMIT = "select treadle.submit('hello', thread_id => 't', notify => true)"


async def test_a_submit_in_a_transaction_that_rolls_back_never_was(loom: Loom) -> None:
    before = await loom.everything()
    transaction = loom.sql.transaction()
    await transaction.start()
    await loom.sql.fetchval(SUBMIT)
    await transaction.rollback()
    assert await loom.everything() == before


async def test_a_submit_in_a_transaction_is_seen_when_it_commits(loom: Loom) -> None:
    user, listener = await loom.connect(), await loom.connect()
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for channel in ("treadle_work", "treadle_events"):
        await listener.sql.add_listener(channel, lambda _c, _p, channel, payload: heard.put_nowait((channel, payload)))
    async with user.sql.transaction():
        await user.sql.execute("create table orders (message uuid)")
        message_id = await user.sql.fetchval(SUBMIT)
        await user.sql.execute("insert into orders values ($1)", message_id)
        assert await loom.claim(10) == []
        assert heard.empty()
    async with asyncio.timeout(20):
        thread = await loom.sql.fetchval("select thread from treadle.messages where message_id = $1", message_id)
        told = f"{message_id}:{thread}" if thread else str(message_id)
        assert {await heard.get(), await heard.get()} == {("treadle_work", "default"), ("treadle_events", told)}
    await listener.sql.reset()
    assert (await loom.claim_one()).message_id == message_id


async def test_submit_has_all_the_fields(loom: Loom) -> None:
    await loom.register({"agent": "typed", "input": {"type": "object"}})
    message_id = await loom.sql.fetchval(
        "select treadle.submit('hello', 't', 'high', 'typed', '{\"a\": 1}', 5, 7, 8.5, true, true)"
    )
    message = await loom.message(message_id)
    wanted = {
        "body": "hello",
        "thread": (await loom.thread("t"))["id"],
        "priority": "high",
        "agent": "typed",
        "metadata": {"a": 1},
        "hold": "delay",
        "max_attempts": 7,
        "timeout_seconds": 8.5,
        "aside": True,
    }
    assert {name: message[name] for name in wanted} == wanted
    typed = await loom.sql.fetchval("select treadle.submit('{\"x\": 1}'::jsonb, agent => 'typed')")
    assert (await loom.message(typed))["body"] == {"x": 1}
    plain = await loom.sql.fetchval("select treadle.submit('hello')")
    assert (await loom.message(plain))["agent"] == "echo"


# Refusals

THREAD_ID = "thread_id must have 1 to 255 characters, none of them a control character or a slash."


NONSENSE = [
    ({"message": None}, "message must be a text or an object."),
    ({"message": 7}, "message must be a text or an object."),
    ({"message": ["a"]}, "message must be a text or an object."),
    ({"message": ""}, "message must not be empty."),
    ({"priority": "urgent"}, "priority must be high, normal or low, not 'urgent'."),
    ({"thread_id": ""}, THREAD_ID),
    ({"thread_id": "x" * 256}, THREAD_ID),
    ({"thread_id": "a/b"}, THREAD_ID),
    ({"thread_id": "a\nb"}, THREAD_ID),
    ({"metadata": []}, "metadata must be an object."),
    ({"metadata": "x"}, "metadata must be an object."),
    ({"delay_seconds": -1}, "delay_seconds must be between 0 and 31622400 (366 days)."),
    ({"delay_seconds": 31622401}, "delay_seconds must be between 0 and 31622400 (366 days)."),
    ({"delay_seconds": "NaN"}, "delay_seconds must be between 0 and 31622400 (366 days)."),
    ({"max_attempts": 0}, "max_attempts must be between 1 and 1000."),
    ({"max_attempts": 1001}, "max_attempts must be between 1 and 1000."),
    ({"timeout_seconds": 0}, "timeout_seconds must be above 0 and at most 604800 (7 days)."),
    ({"timeout_seconds": 604801}, "timeout_seconds must be above 0 and at most 604800 (7 days)."),
    ({"agent": "nobody"}, "There is no agent 'nobody'."),
    ({"message": {"x": 1}}, "The agent 'echo' takes text, not an object."),
]


async def test_nonsense_is_refused_in_one_sentence(loom: Loom) -> None:
    for message, sentence in NONSENSE:
        assert await refused(loom, {}, {"thread_id": "t", **message}) == sentence, message


async def test_what_is_just_acceptable(loom: Loom) -> None:
    await loom.submit_many(
        {"message": "x", "priority": None, "thread_id": None, "metadata": None, "delay_seconds": None},
        {"thread_id": "x" * 255, "max_attempts": 1000, "timeout_seconds": 604800, "delay_seconds": 31622400},
        {"thread_id": " ä?#", "max_attempts": 1, "timeout_seconds": 0.001},
    )


async def test_the_first_fault_of_a_batch_is_named(loom: Loom) -> None:
    assert await refused(loom, {}, {"message": ""}, {"priority": "x"}) == "message must not be empty."


async def test_messages_must_be_an_array(loom: Loom) -> None:
    for messages in ('{"message": "x"}', '"x"', "null"):
        with pytest.raises(asyncpg.PostgresError, match="messages must be an array"):
            await loom.sql.execute("select treadle.submit_many($1)", messages)
    with pytest.raises(asyncpg.PostgresError, match="message must be a text or an object"):
        await loom.sql.execute("select treadle.submit_many($1)", '["x"]')


async def test_without_agents_nothing_can_be_submitted(loom: Loom) -> None:
    await loom.sql.execute("delete from treadle.agents")
    assert await refused(loom, {}) == "No agent is registered yet: start a worker, or name one."
    await loom.register({"agent": "some"})
    assert await refused(loom, {}) == "No agent is registered yet: start a worker, or name one."
    await loom.submit(agent="some")


async def test_an_object_goes_to_an_agent_that_declares_its_input(loom: Loom) -> None:
    await loom.register({"agent": "typed", "input": {"type": "object"}})
    rows = await loom.submit_many({"message": {"x": 1}, "agent": "typed"}, {"message": "text", "agent": "typed"})
    assert [(await loom.message(row["message_id"]))["body"] for row in rows] == [{"x": 1}, "text"]
    assert json.loads((await loom.claim(1))[0].body) == {"x": 1}


async def test_a_new_default_agent_replaces_the_old_one(loom: Loom) -> None:
    await loom.register({"agent": "claude", "is_default": True})
    message = await loom.message(await loom.submit())
    assert message["agent"] == "claude"
    assert await loom.sql.fetchval("select count(*) from treadle.agents where is_default") == 1


async def test_a_full_queue_takes_no_more(loom: Loom) -> None:
    await loom.register({"agent": "other", "queue": "side"})
    await loom.submit_many({}, {"thread_id": "t"}, {"thread_id": "t"}, {"delay_seconds": 9}, max_queue_size=4)
    sentence = await refused(loom, {}, {"agent": "other"}, state="TR429", max_queue_size=4)
    assert sentence == "The queue 'default' is full: it holds at most 4 messages."
    await loom.submit_many({"agent": "other"}, max_queue_size=4)
    await loom.claim(1)  # what runs does not count
    await loom.submit_many({}, max_queue_size=4)
    await refused(loom, {}, {}, state="TR429", max_queue_size=5)
    await loom.sql.fetchval("select treadle.fold_counters()")
    await loom.submit_many({}, max_queue_size=5)


async def test_a_queue_s_name_must_be_one(loom: Loom) -> None:
    for name in ("", "Default", "1a", "a-b", "a" * 41, "a b", None):
        with pytest.raises(asyncpg.PostgresError, match="A queue's name is 1 to 40 of a-z") as raised:
            await loom.sql.execute("select treadle.create_queue($1)", name)
        assert raised.value.sqlstate == "TR422"


async def test_the_longest_queue_name_works(loom: Loom) -> None:
    await loom.register({"agent": "long", "queue": "q" * 40})
    message_id = await loom.submit(agent="long", priority="normal")
    assert (await loom.claim_one(queues=["q" * 40])).message_id == message_id


# Positions


async def positions(loom: Loom, rows: list[Any]) -> list[int | None]:
    """As told now; must agree with what each was told when submitted, if nothing happened since."""
    return [await loom.sql.fetchval("select treadle.queue_position($1)", row["message_id"]) for row in rows]


async def test_positions_count_from_0_and_across_priorities(loom: Loom) -> None:
    rows = []
    for priority in ("low", "normal", "high", "low", "normal", "high"):
        rows += await loom.submit_many({"priority": priority})
    assert [row["queue_position"] for row in rows] == [0, 0, 0, 3, 2, 1]
    told = await positions(loom, rows)
    assert told == [4, 2, 0, 5, 3, 1]
    assert await order(loom) == [rows[told.index(n)]["message_id"] for n in range(6)]


async def test_positions_in_one_batch(loom: Loom) -> None:
    await loom.submit()
    rows = await loom.submit_many({"priority": "low"}, {}, {"priority": "high"}, {}, {"delay_seconds": 9})
    assert [row["queue_position"] for row in rows] == await positions(loom, rows) == [4, 2, 0, 3, None]


async def test_positions_in_a_thread(loom: Loom) -> None:
    await loom.submit()
    rows = await loom.submit_many(*[{"thread_id": "t"}] * 3)
    assert [row["queue_position"] for row in rows] == await positions(loom, rows) == [1, 2, 3]
    rows += await loom.submit_many({"thread_id": "t"})
    assert rows[3]["queue_position"] == 4
    assert await positions(loom, rows) == [1, 2, 3, 4]


async def test_positions_of_what_does_not_wait_for_a_worker(loom: Loom) -> None:
    rows = await loom.submit_many({"thread_id": "t"}, {"thread_id": "t"})
    claim = await loom.claim_one()
    assert await positions(loom, rows) == [None, 0]
    await loom.finish(claim, outcome="error")
    assert await positions(loom, rows) == [None, 0]
    assert await loom.sql.fetchval("select treadle.queue_position($1)", uuid4()) is None


async def test_positions_beyond_a_thousand_are_estimated_by_the_span_of_the_lane(loom: Loom) -> None:
    rows = await loom.submit_many(*[{}] * 1500)
    assert [rows[n]["queue_position"] for n in (0, 999, 1499)] == [0, 999, 1499]
    last = [rows[n] for n in (1200, 1499)]
    assert await positions(loom, last) == [1200, 1499]
    await loom.claim(600)
    assert await positions(loom, last) == [600, 899]
    (row,) = await loom.submit_many({"priority": "low"})
    assert row["queue_position"] == 900


async def test_waiting_lists_who_is_next_first(loom: Loom) -> None:
    rows = await loom.submit_many({"priority": "low"}, {}, {"priority": "high"}, {"thread_id": "t"}, {"thread_id": "t"})
    low, normal, high, head, held = [row["message_id"] for row in rows]

    async def waiting(quantity: int) -> list[UUID]:
        return [row[0] for row in await loom.sql.fetch("select treadle.waiting($1)", quantity)]

    assert await waiting(100) == [high, normal, head, low, held]
    assert await waiting(2) == [high, normal]
