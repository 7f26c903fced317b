"""No two calls wait for each other in a circle, whatever their order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.leases.model import Claim
from tests.support.invariants import assert_consistent
from tests.support.randomness import random_seed
from tests.support.sql_calls import be_patient, persist
from tests.support.sql_client import SqlClient
from tests.support.sql_states import drain
from tests.support.waiting import until


async def test_a_cancel_that_comes_during_a_claim_holds_the_lease_only(sql_client: SqlClient) -> None:
    """It found no lease, waited for the message, and now has the lease: it must not sit on the message meanwhile, for a
    lease is locked before its message."""
    message_id = await sql_client.submit()
    await sql_client.sql.execute("""
        create function public.pause_after_the_second_look() returns trigger language plpgsql as $$ begin
            perform pg_advisory_xact_lock(42);
            return null;
        end $$;
        create trigger pause before insert on treadle.late_cancels for each statement
            execute function public.pause_after_the_second_look()""")
    await be_patient(sql_client.sql, "cancel")
    worker, canceller, gate = await sql_client.connect(), await sql_client.connect(), await sql_client.connect()
    await gate.sql.execute("select pg_advisory_lock(42)")
    async with worker.sql.transaction():
        (claim,) = await worker.claim()
        cancelling = asyncio.create_task(canceller.cancel(message_id))
        await sql_client.until_blocked(canceller)  # by the claim
    await sql_client.until_blocked(canceller)  # by the gate
    await worker.sql.execute("select from treadle.messages for update nowait")
    assert await worker.finish(claim, patient=False) == ["busy"]
    await gate.sql.execute("select pg_advisory_unlock(42)")
    assert await cancelling == "requested"
    assert await worker.finish(claim, patient=False) == ["cancelled"]


@pytest.mark.parametrize("patient", [True, False])
async def test_submits_to_the_same_threads_in_any_order_do_not_deadlock(sql_client: SqlClient, patient: bool) -> None:
    """Threads old and new, in each other's order, while finishes go through the same threads."""
    dice = random.Random(random_seed("submits"))
    sql_clients = await strangers(sql_client, 4)

    async def submit(own: SqlClient, n: int) -> None:
        for round_ in range(12):
            names = [f"t{99 - round_ - k}" for k in range(6)]  # their order is not that of their making
            dice.shuffle(names)
            await own.submit_many(*[{"thread_id": name} for name in names], patient=patient or n % 2 == 0, strict=False)

    async def work(own: SqlClient) -> None:
        for _ in range(30):
            if claims := await own.claim(7):
                await persist(lambda claims=claims: own.finish(*claims, patient=True))  # type: ignore[misc]

    await asyncio.gather(*(submit(own, n) for n, own in enumerate(sql_clients[:3])), work(sql_clients[3]))


async def test_a_thread_that_was_just_made_may_be_older_than_those_that_are_there(sql_client: SqlClient) -> None:
    """A submit that waited for the new thread locks it in the same order as every other submit."""
    making, waiting, holding, late = [await sql_client.connect() for _ in range(4)]
    both = [{"thread_id": "p"}, {"thread_id": "q"}]

    async def blocked(by: SqlClient) -> bool:
        blocking = "select $1 = any(pg_blocking_pids($2))"
        return bool(await sql_client.sql.fetchval(blocking, by.sql.get_server_pid(), waiting.sql.get_server_pid()))

    one, two = making.sql.transaction(), holding.sql.transaction()
    await one.start()
    await making.submit(thread_id="p")
    await sql_client.submit(thread_id="q")
    first = asyncio.create_task(waiting.submit_many(*both))
    await until(lambda: blocked(making))
    await two.start()
    await holding.submit(thread_id="q")
    await one.commit()
    await until(lambda: blocked(holding))
    second = asyncio.create_task(late.submit_many(*both))
    await sql_client.until_blocked(late)
    await two.commit()
    rows = [row for rows in await asyncio.gather(first, second) for row in rows]
    assert [row["state"] for row in rows] == ["queued"] * 4


# At random


async def strangers(sql_client: SqlClient, quantity: int) -> list[SqlClient]:
    """Connections that find a deadlock soon, long before their patience ends."""
    sql_clients = [await sql_client.connect() for _ in range(quantity)]
    for own in sql_clients:
        await own.sql.execute("set deadlock_timeout = '20ms'")
    return sql_clients


# Not there (any more), not in that state, a patient wait of a second, a thread deleted under a submit.
EXPECTED = {"TR404", "TR409", "55P03", "40001"}


class Crowd:
    """Clients, workers and janitors at random, each on a connection of its own, all on a few threads."""

    def __init__(self, seed: int, sql_clients: list[SqlClient], rounds: int) -> None:
        self.seed = seed
        self.sql_clients = sql_clients
        self.rounds = rounds
        self.known: list[UUID] = []
        self.done: dict[str, int] = {}

    async def run(self) -> None:
        roles = [self.client, self.client, self.client, self.worker, self.worker, self.janitor, self.janitor]
        await asyncio.gather(
            *(self.act(role, n, own) for n, (role, own) in enumerate(zip(roles, self.sql_clients, strict=True)))
        )

    async def act(self, role: Callable[..., Awaitable[None]], n: int, own: SqlClient) -> None:
        dice = random.Random(f"{self.seed} {n}")
        held: dict[UUID, tuple[Claim, int]] = {}  # with the next seq
        for _ in range(self.rounds):
            try:
                await role(own, dice, f"w{n}", held)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in EXPECTED:
                    raise AssertionError(f"SEED={self.seed}: {type(error).__name__}: {error}") from error
                self.count(error.sqlstate)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    async def client(self, own: SqlClient, dice: random.Random, *_: Any) -> None:
        kind = dice.choices(["submit", "cancel", "redrive", "delete"], [10, 4, 4, 1])[0]
        match kind:
            case "submit":
                rows = await own.submit_many(
                    *[
                        {
                            "thread_id": dice.choice(["t1", "t2", "t3", "t4", None]),
                            "priority": dice.choice(["high", "normal", "low"]),
                            "delay_seconds": dice.choice([0, 0, 0, 0.001]),
                            "aside": dice.random() < 0.2,
                            "max_attempts": dice.choice([1, 2]),
                        }
                        for _ in range(dice.randint(1, 5))
                    ],
                    patient=dice.random() < 0.5,
                    strict=False,
                )
                self.known += [row["message_id"] for row in rows if row["message_id"]]
                for row in rows:
                    self.count(f"submitted: {row['state']}")
            case "cancel" if self.known:
                self.count(f"cancel: {await own.cancel(dice.choice(self.known[-40:]))}")
            case "redrive":
                if dead := [row[0] for row in await own.sql.fetch("select message_id from treadle.dead_letters")]:
                    self.count(f"redrive: {await own.redrive(dice.choice(dead))}")
            case "delete":
                await own.sql.execute("select treadle.delete_thread($1)", dice.choice(["t1", "t2", "t3", "t4"]))
                self.count("deleted")

    async def worker(self, own: SqlClient, dice: random.Random, name: str, held: dict[UUID, tuple[Claim, int]]) -> None:
        for claim in await own.claim(
            dice.randint(1, 5), worker=name, first_lane=dice.choice(["high", "normal", "low"])
        ):
            held[claim.message_id] = (claim, claim.last_seq + 1)
            self.count("claimed")
        batch = [(claim, seq, ["x"] * dice.randint(1, 3)) for claim, seq in held.values() if dice.random() < 0.7]
        for (claim, seq, chunks), status in zip(batch, await own.append(*batch, patient=False), strict=True):
            if status == "busy":
                status = (await own.append((claim, seq, chunks)))[0]  # noqa: PLW2901
            self.count(f"appended: {status}")
            if status == "ok":
                held[claim.message_id] = (claim, seq + len(chunks))
            else:
                assert status == "lost"
                del held[claim.message_id]
        ending = [claim for claim in (claim for claim, _ in held.values()) if dice.random() < 0.5]
        for claim in ending:
            outcome = dice.choice(["completed", "completed", "error", "rejected", "deferred", "overloaded", "released"])
            finish: dict[str, Any] = {"outcome": outcome, "first_seq": held[claim.message_id][1], "delay": 0.001}
            (status,) = await own.finish(claim, patient=False, **finish)
            if status == "busy":
                (status,) = await own.finish(claim, patient=True, **finish)
            self.count(f"finished: {status}")
            assert status in {"completed", "queued", "failed", "cancelled", "lost"}
            del held[claim.message_id]
        for message_id, verdict in (await own.heartbeat(name, *[claim for claim, _ in held.values()], grace=0)).items():
            self.count(f"verdict: {verdict}")
            if verdict == "lost":
                del held[message_id]

    async def janitor(self, own: SqlClient, dice: random.Random, name: str, _: Any) -> None:
        chore = dice.choice(
            ["admit_due()", "fold_counters(50)", "mend_lanes(null)", "purge(0, 1)", "ensure_partitions()", "reap"]
        )
        if chore == "reap":
            await own.heartbeat(name)
            await own.sql.execute("update treadle.workers set beating_since = '-infinity' where worker_id = $1", name)
            for _worker in (await own.reap(name, worker_timeout=dice.choice([0.02, 10]), max_losses=2)).values():
                self.count("reaped")
        else:
            await own.sql.execute(f"select treadle.{chore}")


async def test_a_crowd_on_a_few_threads_meets_no_deadlock_and_leaves_nothing_stuck(sql_client: SqlClient) -> None:
    seed = random_seed("crowd")
    crowd = Crowd(seed, await strangers(sql_client, 7), rounds=60)
    await crowd.run()
    print(crowd.done)
    # It was a crowd: everything happened.
    for what in (
        "submitted: queued",
        "claimed",
        "appended: ok",
        "finished: completed",
        "finished: failed",
        "redrive: queued",
    ):
        assert crowd.done.get(what), (what, crowd.done)
    await assert_consistent(sql_client.sql)
    await drain(sql_client)
