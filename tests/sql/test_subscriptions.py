"""Subscriptions: records become messages."""

import asyncio
import contextlib
import json
from typing import Any

import asyncpg
import pytest

from tests.support.topic_calls import Topics, records_of, refusal


async def test_a_record_becomes_a_message_of_the_agent(topics: Topics) -> None:
    await topics.subscribe()
    [published] = await topics.publish("t", {"value": {"a": 1}, "key": "k", "headers": {"h": "x"}})
    assert await topics.route() == 1
    claim = await topics.client.claim_one()
    assert (json.loads(claim.body), claim.agent, claim.thread_id) == ({"a": 1}, "echo", "records/s/k")
    assert claim.subscription == "default/s"
    assert records_of([claim]) == [
        {
            "subscription": "s",
            "delivery": "at_least_once",
            "topic": "t",
            "offset": 0,
            "record_id": str(published["record_id"]),
            "key": "k",
            "headers": {"h": "x"},
        }
    ]
    assert (await topics.overview())["open"] == 1
    await topics.client.finish(claim)
    overview = await topics.overview()
    assert (overview["open"], overview["completed"], overview["lag"]) == (0, 1, 0)
    assert await topics.route() == 0


async def test_records_of_a_key_run_in_order_and_keys_beside_each_other(topics: Topics) -> None:
    await topics.subscribe()
    records = [{"value": f"{key}{n}", "key": key} for n in range(3) for key in "abc"]
    await topics.publish("t", *records, "free", "loose")
    await topics.route()
    assert sorted(await topics.handle()) == ["a0", "b0", "c0", "free", "loose"]
    await topics.publish("t", {"value": "a3", "key": "a"})
    await topics.route()
    assert [sorted(await topics.handle()) for _ in range(4)] == [["a1", "b1", "c1"], ["a2", "b2", "c2"], ["a3"], []]


async def test_every_subscription_gets_every_record(topics: Topics) -> None:
    await topics.publish("t", *range(5))
    await topics.route()
    await topics.subscribe("early")
    await topics.subscribe("late", start="latest")
    await topics.subscribe("middle", start="3")
    await topics.publish("t", *range(5, 8))
    await topics.route()
    received: dict[str, list[int]] = {}
    claims = await topics.claims()
    for claim, record in zip(claims, records_of(claims), strict=True):
        received.setdefault(record["subscription"], []).append(json.loads(claim.body))
    assert received == {"early": [*range(8)], "late": [5, 6, 7], "middle": [*range(3, 8)]}


async def test_a_full_subscription_leaves_records_in_the_log(topics: Topics) -> None:
    await topics.subscribe(max_in_flight=3)
    await topics.publish("t", *range(10))
    assert await topics.route() == 3
    row = await topics.row("select * from treadle.deliver_records(names => '{default/s}')")
    assert (row["delivered"], row["waiting"], row["again"]) == (0, ["default/s"], None)
    overview = await topics.overview()
    assert (overview["open"], overview["lag"]) == (3, 7)
    assert overview["positions"] == [{"topic": "t", "next_offset": 3, "lag": 7}]
    assert await topics.drain() == [*range(10)]


async def test_topics_that_come_later_join_by_their_names(topics: Topics) -> None:
    await topics.subscribe("s", "plan.*", "#.out", start="latest")
    await topics.create("plan.in", "code.plan.out", "code.plan.in")
    for topic in ("t", "plan.in", "code.plan.out", "code.plan.in"):
        await topics.publish(topic, topic)
    assert sorted(await topics.drain()) == ["code.plan.out", "plan.in"]
    assert await topics.subscribe("s", "t", start="earliest") == "changed"
    await topics.publish("plan.in", "not any more")
    assert await topics.drain() == ["t"]
    await topics.subscribe("s", "plan.in")
    assert await topics.drain() == ["not any more"]  # it goes on where it was


async def test_a_filter_leaves_records_out(topics: Topics) -> None:
    await topics.subscribe(filter='{"value": {"kind": "a"}, "headers": {"h": "x"}}')
    await topics.publish(
        "t",
        {"value": {"kind": "a", "n": 1}, "headers": {"h": "x", "i": "y"}},
        {"value": {"kind": "b"}, "headers": {"h": "x"}},
        {"value": {"kind": "a", "n": 2}},
        "text",
    )
    assert await topics.drain() == [{"kind": "a", "n": 1}]
    assert (await topics.overview())["filtered"] == 3


async def test_a_filter_that_an_earlier_release_took_is_kept(topics: Topics) -> None:
    await topics.subscribe("s", filter='{"value": "x"}')
    large = json.dumps({"value": {"kinds": list(range(21))}})
    await topics.sql.execute("update treadle.subscriptions set filter = $1::jsonb", large)
    declare = "select treadle.create_subscription('s', array['t'], 'echo', filter => $1::jsonb, max_in_flight => $2)"
    for max_in_flight in (5, 5):
        await topics.sql.fetchval(declare, large, max_in_flight)
    with pytest.raises(asyncpg.PostgresError, match="filter must have at most 20 values"):
        await topics.sql.fetchval(declare, json.dumps({"value": {"kinds": list(range(22))}}), 5)


async def test_a_subscription_that_is_far_behind_delays_no_other(topics: Topics) -> None:
    await topics.subscribe("behind", filter='{"value": "none"}')
    await topics.subscribe("busy")
    await topics.publish("t", *range(300))
    await topics.create("u")
    await topics.subscribe("fresh", "u")
    await topics.publish("u", "x")
    while await topics.sql.fetchval("select more from treadle.sequence_records()"):
        pass
    call = "select delivered, again from treadle.deliver_records(quantity => 300)"
    row = await topics.row(call)
    assert (await topics.overview("fresh"))["open"] == 1
    assert (row["delivered"], sorted(row["again"])) == (201, ["default/behind", "default/busy"])
    # More subscriptions than a round has parts for: each is served in its turn.
    for n in range(9):
        await topics.subscribe(f"s{n}")
    served: set[str] = set()
    rounds = 0
    while len(served) < 9:
        rounds += 1
        await topics.row(call)
        served |= {f"s{n}" for n in range(9) if (await topics.overview(f"s{n}"))["lag"] < 300}
    assert rounds > 2


async def test_a_paused_subscription_goes_on_where_it_was(topics: Topics) -> None:
    await topics.subscribe()
    await topics.subscribe("other")
    await topics.sql.execute("select treadle.pause_subscription('s')")
    await topics.publish("t", *range(3))
    assert await topics.drain() == [0, 1, 2]
    await topics.sql.execute("select treadle.pause_subscription('s', false)")
    assert await topics.drain() == [0, 1, 2]


async def test_a_replay_begins_new_lives_and_doubles_no_open_message(topics: Topics) -> None:
    await topics.subscribe()
    await topics.publish("t", *({"value": n, "key": "k" if n % 2 else None} for n in range(6)))
    await topics.route()
    handled = await topics.handle(quantity=3)  # keyless 0 and 2, and 1, the first of its key
    assert sorted(handled) == [0, 1, 2]
    await topics.sql.execute("select treadle.seek_subscription('s', 'earliest')")
    await topics.publish("t", 6)
    await topics.route()
    # 3, 4 and 5 are still open; 1 waits behind the open ones of its key.
    bodies = await topics.drain()
    assert sorted(bodies) == [0, 1, 2, 3, 4, 5, 6]
    assert [body for body in bodies if body % 2] == [3, 5, 1]
    await topics.sql.execute("select treadle.seek_subscription('s', '5', topic => 't')")
    assert await topics.drain() == [5, 6]
    await topics.sql.execute("select treadle.seek_subscription('s', 'latest')")
    assert await topics.drain() == []
    assert (await refusal(topics.sql.execute("select treadle.seek_subscription('s', '0', 'none')")))[0] == "TR404"
    for wrong in ("tomorrow", "2026-13-45", "-1", "nonsense"):  # also where no topic matches yet
        for call in (
            f"treadle.seek_subscription('s', '{wrong}')",
            f"treadle.create_subscription('new', array['none'], 'echo', start => '{wrong}')",
        ):
            assert (await refusal(topics.sql.execute(f"select {call}")))[0] == "TR422", call


async def test_a_deleted_subscription_leaves_its_messages(topics: Topics) -> None:
    await topics.subscribe()
    await topics.publish("t", 1)
    await topics.route()
    await topics.sql.execute("select treadle.delete_subscription('s')")
    await topics.publish("t", 2)
    assert await topics.drain() == [1]
    await topics.sql.execute("select treadle.fold_subscriptions()")
    assert await topics.sql.fetchval("select count(*) from treadle.subscription_counts") == 0
    assert await topics.subscribe() == "created"
    assert await topics.drain() == [1, 2]


async def test_a_held_subscription_delays_no_other(topics: Topics) -> None:
    await topics.subscribe("held")
    await topics.subscribe("free")
    other = await topics.client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select treadle.pause_subscription('held')")
        await topics.publish("t", 1)
        await topics.sql.execute("select treadle.sequence_records()")
        row = await topics.row("select * from treadle.deliver_records()")
        assert (row["delivered"], row["again"]) == (1, ["default/held"])


async def test_nothing_is_delivered_before_there_is_an_agent(topics: Topics) -> None:
    await topics.subscribe(agent="new")
    await topics.publish("t", 1)
    assert await topics.drain() == []
    assert (await topics.overview())["lag"] == 1
    await topics.client.register({"agent": "new"})
    assert await topics.drain() == [1]


async def test_a_suspended_tenant_gets_nothing(topics: Topics) -> None:
    await topics.sql.execute("select treadle.create_tenant('other')")
    await topics.create("t", tenant="other")
    await topics.subscribe(tenant="other")
    await topics.publish("t", {"value": 1, "key": "k"}, tenant="other")
    await topics.sql.execute("select treadle.suspend_tenant('other')")
    assert await topics.drain() == []
    assert (await refusal(topics.publish("t", 2, tenant="other")))[0] == "TR403"
    await topics.sql.execute("select treadle.suspend_tenant('other', false)")
    assert await topics.drain() == [1]


async def test_deliveries_of_one_tenant_wait_for_its_share(topics: Topics) -> None:
    await topics.sql.execute("select treadle.create_tenant('other')")
    await topics.subscribe()
    await topics.publish("t", *({"value": n, "key": f"k{n % 300}"} for n in range(500)))
    await topics.route()
    holds = await topics.sql.fetch("select hold, count(*) as n from treadle.messages group by 1 order by 1")
    assert {row["hold"]: row["n"] for row in holds} == {None: 200, "share": 100, "thread": 200}
    assert sorted(await topics.drain()) == [*range(500)]


UNACCEPTABLE: list[dict[str, Any]] = [
    {"name": "a/b"},
    {"topics": []},
    {"topics": ["a.b*"]},
    {"topics": ["a b"]},
    {"topics": ["t"] * 101},
    {"delivery": "twice"},
    {"max_in_flight": 0},
    {"filter": "[]"},
    {"filter": '{"key": 1}'},
    {"start": "soon"},
    {"agent": ""},
]


async def test_values_that_are_not_acceptable(topics: Topics) -> None:
    for arguments in UNACCEPTABLE:
        given = {"name": "s", "topics": ["t"], **arguments}
        name, patterns = given.pop("name"), given.pop("topics")
        named = {"agent": "echo", "start": "earliest", **given}
        text = "".join(f", {key} => ${n}" for n, key in enumerate(named, 3))
        call = topics.sql.fetchval(f"select treadle.create_subscription($1, $2{text})", name, patterns, *named.values())
        assert (await refusal(call))[0] == "TR422", arguments


async def test_two_routers_deliver_each_record_once(topics: Topics) -> None:
    await topics.subscribe(max_in_flight=50)
    await topics.subscribe("other", max_in_flight=50)
    await topics.publish("t", *({"value": n, "key": f"k{n % 7}" if n % 2 else None} for n in range(400)))
    routers = [topics, *[Topics(await topics.client.connect()) for _ in range(2)]]
    bodies: list[int] = []

    async def handle(router: Topics) -> list[int]:
        claims = await router.claims(10)
        while claims:
            with contextlib.suppress(asyncpg.LockNotAvailableError):  # another router holds a thread: try again
                await router.client.finish(*claims)
                break
        return [json.loads(claim.body) for claim in claims]

    async def work(router: Topics) -> None:
        while len(bodies) < 800:
            await router.sql.execute("select treadle.sequence_records(1)")
            await router.row("select * from treadle.deliver_records(quantity => 20)")
            bodies.extend(await handle(router))

    await asyncio.gather(*(work(router) for router in routers))
    assert sorted(bodies) == sorted([*range(400)] * 2)


async def test_two_groups_and_a_reader_see_an_hour_of_records_in_order(topics: Topics) -> None:
    """One group is paused for the hour, another one begins afterwards, and a reader reads from the earliest."""
    for name in ("a", "b"):
        await topics.subscribe(name, max_in_flight=100)
    await topics.sql.execute("select treadle.pause_subscription('b')")
    received: dict[str, list[Any]] = {}

    async def drain() -> None:
        while await topics.route() or (await topics.sql.fetchval("select exists (select from pgmq.q_default_normal)")):
            claims = await topics.claims()
            for record in records_of(claims):
                received.setdefault(record["subscription"], []).append((record["key"], record["offset"]))
            await topics.client.finish(*claims)

    for minute in range(60):
        await topics.client.shift_clock(60.0 * minute)
        await topics.publish("t", *({"value": 4 * minute + n, "key": f"k{(4 * minute + n) % 20}"} for n in range(4)))
        if minute % 20 == 19:
            await drain()
    assert set(received) == {"a"}
    assert (await topics.overview("b"))["lag"] == 240
    half_an_hour_ago = await topics.sql.fetchval(
        "select treadle.topic_offset('t', (treadle.clock() - interval '29 minutes 30 seconds')::text)"
    )
    assert half_an_hour_ago == 120
    await topics.sql.execute("select treadle.pause_subscription('b', false)")
    await topics.subscribe("c", max_in_flight=100)
    await drain()
    everything = [(f"k{n % 20}", n) for n in range(240)]
    for name in ("a", "b", "c"):
        assert sorted(received[name]) == sorted(everything)
        for key in {key for key, _ in everything}:
            assert [offset for k, offset in received[name] if k == key] == [n for k, n in everything if k == key]
    assert await topics.values() == [*range(240)]
    pages: list[int] = []
    while page := await topics.read("t", len(pages), quantity=70):
        pages += [row["offset"] for row in page]
    assert pages == [*range(240)]


async def test_a_consumer_and_an_agent_share_no_subscription(topics: Topics) -> None:
    await topics.client.sql.execute("select treadle.follow_topics('echo', '{t}')")
    create = "select treadle.create_subscription($1, '{t}', $2)"
    with pytest.raises(asyncpg.PostgresError, match="is that of the agent 'echo': choose another name") as refused:
        await topics.client.sql.execute(create, "echo", "consumer:echo")
    assert refused.value.sqlstate == "TR409"
    assert await topics.client.sql.fetchval(create, "group", "consumer:group") == "created"
    assert await topics.client.sql.fetchval(create, "group", "consumer:group") == "unchanged"
    with pytest.raises(asyncpg.PostgresError, match="is that of the agent 'consumer:group'"):
        await topics.client.sql.execute("select treadle.follow_topics('group', '{t}')")
    await topics.client.sql.execute("select treadle.delete_subscription('group')")
    assert await topics.client.sql.fetchval(create, "group", "echo") == "created"
