"""What a principal does not see is to it as if it did not exist: every call answers as for an unknown name, and changes
nothing."""

import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from uuid_utils.compat import uuid7

from service.access.principal import AUTH_OFF, Principal
from service.db.pool import Database
from service.errors import Conflict, Forbidden, NotFound, Refused, Unprocessable
from service.messages.model import MessageChanges, NewInput, NewMessage
from tests.support.sql_client import SqlClient
from tests.support.stores import Stores


def principal(**restrictions: Any) -> Principal:
    return msgspec.structs.replace(AUTH_OFF, **restrictions)


ADA = principal(subject="ada")
STRANGERS = {
    "another tenant": principal(tenant="acme"),
    "the same subject of another tenant": principal(tenant="acme", subject="ada"),
    "another subject": principal(subject="bob"),
    "a key of another agent": principal(agents=("other",)),
    "a token of another thread": principal(thread_id="other"),
    "a token of another message": principal(message_id=uuid7()),
}


@pytest.fixture
async def stores(database: Database, sql_client: SqlClient) -> Stores:
    await sql_client.register({}, {"agent": "other"})
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    return Stores(database, sql_client)


Call = Callable[[Stores, Principal, Any], Awaitable[Any]]

OF_A_MESSAGE: dict[str, Call] = {
    "status": lambda s, p, message_id: s.messages.status(p, message_id),
    "cancel": lambda s, p, message_id: s.messages.cancel(p, message_id),
    "input": lambda s, p, message_id: s.messages.input(p, message_id, NewInput(input="x")),
    "redrive": lambda s, p, message_id: s.messages.redrive(p, message_id),
    "change": lambda s, p, message_id: s.messages.change(p, message_id, MessageChanges(priority="low")),
    "descendants": lambda s, p, message_id: s.inspection.find(p, {"parent": str(message_id)}, before=None, limit=9),
    "log_end": lambda s, p, message_id: s.events.log_end(p, message_id),
    "events": lambda s, p, message_id: s.events.page(p, message_id, 0, 10, 1000),
    "a cursor": lambda s, p, message_id: s.events.page(p, message_id, 1, 10, 1000),
}
OF_A_THREAD: dict[str, Call] = {
    "get": lambda s, p, thread_id: s.threads.get(p, thread_id),
    "usage": lambda s, p, thread_id: s.threads.usage(p, thread_id),
    "key": lambda s, p, thread_id: s.threads.key(p, thread_id),
    "place": lambda s, p, thread_id: s.threads.place(p, thread_id, 1),
    "thread_logs": lambda s, p, thread_id: s.threads.thread_logs([(p, thread_id)]),
    "agent_while_busy": lambda s, p, thread_id: s.threads.agent_while_busy(p, thread_id, None),
    "change": lambda s, p, thread_id: s.threads.change(p, thread_id, {"a": 1}),
    "messages": lambda s, p, thread_id: s.inspection.find(p, {"thread_id": thread_id}, before=None, limit=9),
    "delete": lambda s, p, thread_id: s.threads.delete(p, thread_id),
}


async def answer(call: Awaitable[Any], name: object) -> str:
    """The answer or the error, without the name that it was asked for."""
    try:
        found = repr(await call)
    except Refused as error:
        found = repr(error)
    return found.replace(str(name), "NAME")


async def test_a_message_that_is_not_seen_does_not_exist(stores: Stores, subtests: pytest.Subtests) -> None:
    seen, ended = await stores.submit(ADA, "t"), await stores.submit(ADA)
    await stores.sql_client.run(outcome="rejected")
    waiting = await stores.submit(ADA)
    before = await stores.sql_client.all_rows()
    for name, stranger in STRANGERS.items():
        for message_id, (call_name, call) in itertools.product((seen, ended, waiting), OF_A_MESSAGE.items()):
            unknown = uuid7()
            with subtests.test(name, call=call_name):
                expected = await answer(call(stores, stranger, unknown), unknown)
                assert await answer(call(stores, stranger, message_id), message_id) == expected
        with subtests.test(f"{name} changes nothing"):
            assert await stores.sql_client.all_rows() == before
    assert (await stores.messages.status(ADA, seen)).thread_id == "t"
    assert await stores.messages.cancel(ADA, waiting) == "cancelled"


async def test_a_thread_that_is_not_seen_does_not_exist(stores: Stores, subtests: pytest.Subtests) -> None:
    await stores.submit(ADA, "of-ada")
    await stores.sql_client.claim()
    before = await stores.sql_client.all_rows()
    thread, _ = await stores.threads.key(ADA, "of-ada") or (0, 0)
    for name, stranger in STRANGERS.items():
        for call_name, call in OF_A_THREAD.items():
            with subtests.test(name, call=call_name):
                expected = await answer(call(stores, stranger, "unknown"), "unknown")
                assert await answer(call(stores, stranger, "of-ada"), "of-ada") == expected
        with subtests.test(name):
            assert await stores.threads.page(stranger, 10, None) == ([], None)
            assert await stores.threads.open_messages(stranger, thread) == []
            assert await stores.sql_client.all_rows() == before
    assert [agent for _, agent, _ in await stores.threads.open_messages(ADA, thread)] == ["echo"]
    assert (await stores.threads.get(ADA, "of-ada")).message_count == 1


async def test_lists_and_figures_are_those_of_the_tenant(stores: Stores) -> None:
    acme = principal(tenant="acme")
    for caller in (ADA, principal(subject="bob"), acme):
        await stores.submit(caller, agent="echo")
    await stores.sql_client.run(1, outcome="rejected")  # ada's
    await stores.submit(ADA)
    for caller, letters, queued in ((ADA, 1, 1), (principal(subject="bob"), 0, 1), (acme, 0, 1), (AUTH_OFF, 1, 2)):
        page, _ = await stores.queues.dead_letter_page(caller, "default", 10, None)
        assert len(page) == letters
        assert len((await stores.queues.overview(caller)).queued_messages) == queued
        assert len(await stores.queues.dead_letters(caller, None, 10)) == letters
    figures = await stores.queues.get(acme, "default")
    assert (figures.depth, figures.visible, figures.failed) == (1, 1, 0)
    assert (await stores.queues.overview(acme)).total_failed == 0
    assert (await stores.queues.get(AUTH_OFF, "default")).depth == 3  # of all tenants
    assert [agent.agent for agent in await stores.queues.agents(principal(agents=("other",)))] == ["other"]


async def test_dead_letters_of_others_hide_none(stores: Stores) -> None:
    acme = principal(tenant="acme")
    message_id = await stores.submit(acme)
    await stores.sql_client.run(outcome="rejected")
    await stores.sql_client.sql.execute(
        "select pgmq.send_batch('default_dlq', array_fill('{\"reason\": \"x\"}'::jsonb, array[1001]))"
    )
    assert [letter.message_id for letter in await stores.queues.dead_letters(acme, None, 10)] == [message_id]
    await stores.sql_client.sql.execute("delete from pgmq.q_default_dlq where message -> 'message_id' is null")


async def test_a_submit_keeps_to_the_threads_of_its_owner(stores: Stores) -> None:
    """Equal names of two tenants are two threads; in one tenant a name belongs to its first owner."""
    await stores.submit(ADA, "t")
    await stores.submit(principal(tenant="acme", subject="ada"), "t")
    with pytest.raises(NotFound, match="There is no thread 't'"):
        await stores.submit(principal(subject="bob"), "t")
    with pytest.raises(NotFound, match="There is no thread 't'"):
        await stores.messages.submit_batch(principal(subject="bob"), [NewMessage("x", thread_id="t")])
    threads = await stores.sql_client.sql.fetch("select tenant, owner, agents from treadle.threads order by tenant")
    assert [tuple(row) for row in threads] == [
        ("acme", "ada", ["echo"]),
        ("default", "ada", ["echo"]),
    ]
    shared = await stores.submit(AUTH_OFF, "t")  # a principal without a subject
    assert (await stores.messages.status(ADA, shared)).thread_id == "t"
    assert await stores.sql_client.sql.fetchval("select count(*) from treadle.messages where owner = 'ada'") == 3


async def test_a_key_of_some_agents_sees_no_thread_with_others(stores: Stores) -> None:
    key = principal(agents=("echo",))
    own = await stores.submit(key, "t")
    assert (await stores.threads.get(key, "t")).message_count == 1
    await stores.submit(AUTH_OFF, "t", agent="other")
    with pytest.raises(NotFound):
        await stores.threads.get(key, "t")
    with pytest.raises(NotFound):
        await stores.submit(key, "t")
    assert (await stores.messages.status(key, own)).state == "queued"
    with pytest.raises(Unprocessable, match="There is no agent 'other'"):
        await stores.submit(key, agent="other")


async def test_a_token_of_one_thread_submits_to_it_only(stores: Stores) -> None:
    token = principal(thread_id="t", subject="ada")
    await stores.submit(token, "t")
    for thread_id in (None, "u"):
        with pytest.raises(Forbidden, match="submit to the thread 't' only"):
            await stores.submit(token, thread_id)
    with pytest.raises(Forbidden):
        await stores.submit(principal(message_id=uuid7()))
    assert await stores.sql_client.sql.fetchval("select count(*) from treadle.threads") == 1


async def test_idempotency_keys_belong_to_their_principal(stores: Stores) -> None:
    callers = [AUTH_OFF, ADA, principal(subject="bob"), principal(tenant="acme"), principal(agents=("echo",))]
    answers = [await stores.messages.submit_once(caller, "key", b"x", [NewMessage("hello")]) for caller in callers]
    assert len({accepted.message_id for [accepted] in answers}) == len(callers)
    for caller, first in zip(callers, answers, strict=True):
        assert await stores.messages.submit_once(caller, "key", b"x", [NewMessage("hello")]) == first


async def test_the_id_of_a_message_that_is_not_seen_is_used_up(stores: Stores) -> None:
    taken = await stores.submit(ADA)
    message = json.dumps([{"message": "x", "message_id": str(taken), "agent": "other"}])
    call = "select treadle.submit_many($1, tenant => $2, reach => $3)"
    for caller in STRANGERS.values():
        if caller.thread_id is None and caller.message_id is None:
            with pytest.raises(Exception, match="was used before"):
                await stores.sql_client.sql.execute(call, message, caller.tenant, caller.reach)
    await stores.sql_client.sql.execute(call, message, ADA.tenant, ADA.reach)


async def test_a_parent_of_another_tenant_is_no_parent(stores: Stores) -> None:
    parent = await stores.submit(ADA)
    message = json.dumps([{"message": "x", "parent": str(parent)}])
    rows = [
        await stores.sql_client.sql.fetchrow("select * from treadle.submit_many($1, tenant => $2)", message, tenant)
        for tenant in ("acme", "default")
    ]
    parents = [(await stores.sql_client.message(row["message_id"]))["parent"] for row in rows if row is not None]
    assert parents == [None, parent]


async def test_a_suspended_tenant_submits_nothing_and_is_passed_over(stores: Stores) -> None:
    acme = principal(tenant="acme")
    for _ in range(5):
        await stores.submit(acme, "t")
    await stores.submit(acme)
    own = await stores.submit(ADA, "t")
    await stores.sql_client.sql.execute("select treadle.suspend_tenant('acme')")
    with pytest.raises(Forbidden, match="suspended"):
        await stores.submit(acme)
    assert (await stores.sql_client.claim_one()).message_id == own
    assert await stores.sql_client.lanes() == [[], [own], []]  # later claims do not meet the others
    await stores.sql_client.sql.execute("select treadle.admit_due()")
    assert await stores.sql_client.claim(100) == []
    await stores.sql_client.sql.execute("select treadle.suspend_tenant('acme', false)")
    await stores.sql_client.sql.execute("select treadle.admit_due()")
    assert {claim.tenant for claim in await stores.sql_client.claim(100)} == {"acme"}
    with pytest.raises(NotFound, match="There is no tenant 'nowhere'"):
        await stores.submit(principal(tenant="nowhere"))


async def test_a_worker_of_some_tenants_leaves_the_rows_of_others_alone(stores: Stores) -> None:
    for tenant in ("default", "acme", "default"):
        await stores.submit(principal(tenant=tenant))
    call = "select message_id, tenant from treadle.claim('w', '{default}', 10, 60, tenants => $1)"
    assert [row["tenant"] for row in await stores.sql_client.sql.fetch(call, ["acme"])] == ["acme"]
    assert [row["tenant"] for row in await stores.sql_client.sql.fetch(call, ["acme"])] == []
    assert [row["tenant"] for row in await stores.sql_client.sql.fetch(call, ["default"])] == ["default"] * 2


async def test_what_a_message_sends_stays_with_its_owner(stores: Stores) -> None:
    """An agent that is talked into naming the thread of another owner writes nothing there."""
    await stores.submit(ADA, "of ada")
    await stores.sql_client.run()
    await stores.submit(principal(subject="bob"))
    claim = await stores.sql_client.claim_one()

    async def send(thread_id: str) -> str:
        return str(
            await stores.sql_client.sql.fetchval(
                "select status from treadle.append_and_send($1, $2, 3, '{step}', '{1}', $3)",
                claim.message_id,
                claim.lease,
                json.dumps([{"message": "x", "thread_id": thread_id, "parent": str(claim.message_id)}]),
            )
        )

    with pytest.raises(Exception, match="There is no thread 'of ada'"):
        await send("of ada")
    assert await send("of bob") == "ok"
    owners = await stores.sql_client.sql.fetch("select thread_id, owner from treadle.threads order by id")
    assert [tuple(row) for row in owners] == [("of ada", "ada"), ("of bob", "bob")]


async def test_a_message_learns_nothing_of_messages_of_others(stores: Stores) -> None:
    foreign = await stores.submit(principal(tenant="acme"))
    asker, other, own = [await stores.submit(caller) for caller in (ADA, principal(subject="bob"), ADA)]
    rows = await stores.sql_client.sql.fetch(
        "select state from treadle.children($1, $2) order by n", asker, [foreign, other, own, uuid7()]
    )
    assert [row["state"] for row in rows] == [None, None, "queued", None]


async def test_a_cancel_of_another_tenant_is_no_conflict_either(stores: Stores) -> None:
    done = await stores.submit(ADA)
    await stores.sql_client.run()
    with pytest.raises(Conflict):
        await stores.messages.cancel(ADA, done)
    with pytest.raises(NotFound):
        await stores.messages.cancel(principal(subject="bob"), done)


ODD_REACHES = [
    *(
        "null",
        "1",
        '"x"',
        "[]",
        '["owner"]',
        '{"owners": "ada"}',
        '{"owner": 1}',
        '{"owner": {}}',
        '{"agents": "echo"}',
    ),
    *('{"agents": [1]}', '{"agents": null}', '{"agents": [["echo"]]}', '{"thread_id": null}', '{"thread_id": 7}'),
    *('{"message_id": "x"}', '{"message_id": null}', '{"owner": "ada", "tenant": "acme"}'),
]


async def test_every_call_refuses_a_reach_of_an_unknown_shape(stores: Stores) -> None:
    """It would restrict less than its caller means."""
    sql, message_id = stores.sql_client.sql, await stores.submit(ADA, "t")
    before = await stores.sql_client.all_rows()
    functions = await sql.fetch(
        "select p.proname, p.proargnames, p.pronargs - p.pronargdefaults as needed,"
        " p.proargtypes::regtype[]::text[] as types from pg_proc p"
        " where p.pronamespace = 'treadle'::regnamespace and 'reach' = any(p.proargnames) and p.proname !~ '^_'"
    )
    by_type = {
        "uuid": f"'{message_id}'",
        "uuid[]": f"'{{{message_id}}}'",
        "text": "'t'",
        "text[]": "'{t}'",
        "jsonb": "'{}'",
        "bytea": "'x'",
        "boolean": "true",
        **dict.fromkeys(("integer", "bigint", "double precision"), "1"),
    }
    by_name = {"messages": """'[{"message": "x"}]'""", "message": "'\"x\"'", "records": "'[]'", "tenant": "'default'"}
    assert len(functions) >= 16
    for name, names, needed, types in functions:
        arguments = [
            f"{argument} => {by_name.get(argument) or by_type[type]}::{type}"
            for argument, type in list(zip(names, types, strict=False))[:needed]
            if argument != "reach"
        ]
        for reach in ODD_REACHES if name == "log_end" else ODD_REACHES[5:7]:
            with pytest.raises(Exception, match="reach must be null, or an object"):
                await sql.execute(f"select treadle.{name}({', '.join([*arguments, 'reach => $1'])})", reach)
    assert await stores.sql_client.all_rows() == before


async def test_the_full_queue_of_a_tenant_leaves_others_alone(stores: Stores) -> None:
    call = "select state, refusal_code from treadle.submit_many($1, tenant => $2, max_queue_size => 2, strict => false)"
    for tenant in ("acme", "default"):
        rows = await stores.sql_client.sql.fetch(call, json.dumps([{"message": "x"}] * 3), tenant)
        assert [row["state"] for row in rows] == ["queued", "queued", "refused"], tenant
        assert rows[2]["refusal_code"] == "TR429"
