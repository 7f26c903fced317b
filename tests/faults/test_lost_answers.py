"""Every writing call can be repeated after a lost answer: PostgreSQL has executed it, the connection is reset, the call
is repeated, and the outcome is the same."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from faults.proxy import Proxy
from service.access.principal import COMMAND_LINE
from service.db.notifier import Notifier
from service.db.pool import Database
from service.errors import Unavailable
from service.leases.model import Append, Claim, EventToAppend, Finish, Outcome, OutcomeKind
from service.leases.store import LeaseStore
from service.messages.model import NewMessage
from service.messages.store import MessageStore
from tests.support.invariants import assert_consistent
from tests.support.proxies import database_proxy, dsn_through
from tests.support.sql_client import SqlClient

NO_EVENTS: list[EventToAppend] = []


class LossyDatabase:
    """A database behind a proxy that loses answers, and a direct client of the same database."""

    def __init__(self, database: Database, proxy: Proxy, sql_client: SqlClient) -> None:
        self.database, self.sql_client = database, sql_client
        self.leases = LeaseStore(database)
        self.notifier = Notifier(database)
        self.messages = MessageStore(database, self.notifier, max_queue_size=100)
        self._proxy = proxy

    async def lose_answer(self) -> None:
        """Lose the next answer, which is not that of a hint of an earlier call."""
        await self.notifier.flush()
        self._proxy.cuts = 0
        self._proxy.lose_answers(1)

    @property
    def lost(self) -> bool:
        return self._proxy.cuts > 0

    async def claimed(self) -> Claim:
        await self.sql_client.submit(thread_id="t")
        return await self.sql_client.claim_one()


@pytest.fixture
async def line(sql_client: SqlClient, dsn: str) -> AsyncIterator[LossyDatabase]:
    async with database_proxy(dsn) as proxy:
        database = Database(dsn_through(dsn, proxy), name="test", size=1)
        await database.fetchval("select 1")
        yield LossyDatabase(database, proxy, sql_client)
        await database.close()


async def test_a_submit_can_be_repeated(line: LossyDatabase) -> None:
    await line.messages.submit(COMMAND_LINE, NewMessage("warm"))  # the statement is prepared
    await line.lose_answer()
    accepted = await line.messages.submit(COMMAND_LINE, NewMessage("once", thread_id="t"))
    assert line.lost
    rows = await line.sql_client.sql.fetch("select message_id, ord from treadle.messages where body = '\"once\"'")
    assert [tuple(row) for row in rows] == [(accepted.message_id, 1)]


async def test_a_batch_can_be_repeated(line: LossyDatabase) -> None:
    await line.messages.submit_batch(COMMAND_LINE, [NewMessage("warm"), NewMessage("warm")])
    await line.lose_answer()
    accepted = await line.messages.submit_batch(
        COMMAND_LINE, [NewMessage("a", thread_id="t"), NewMessage("b", thread_id="t")]
    )
    assert line.lost
    rows = await line.sql_client.sql.fetch(
        "select message_id from treadle.messages where thread is not null order by ord"
    )
    assert [row["message_id"] for row in rows] == [one.message_id for one in accepted]


async def test_a_submit_that_filled_the_queue_can_be_repeated(line: LossyDatabase) -> None:
    line.messages = MessageStore(line.database, line.notifier, max_queue_size=2)
    await line.messages.submit(COMMAND_LINE, NewMessage("first"))
    await line.lose_answer()
    await line.messages.submit(COMMAND_LINE, NewMessage("second"))
    assert line.lost
    assert await line.sql_client.sql.fetchval("select count(*) from treadle.messages") == 2


async def test_a_submit_with_a_key_can_be_repeated(line: LossyDatabase) -> None:
    await line.messages.submit_once(COMMAND_LINE, "warm", b"x", [NewMessage("warm")])
    await line.lose_answer()
    (accepted,) = await line.messages.submit_once(COMMAND_LINE, "key", b"x", [NewMessage("once")])
    assert line.lost
    rows = await line.sql_client.sql.fetch("select message_id from treadle.messages where body = '\"once\"'")
    assert [row["message_id"] for row in rows] == [accepted.message_id]


async def test_an_append_can_be_repeated(line: LossyDatabase) -> None:
    claim = await line.claimed()

    async def append(first_seq: int) -> tuple[str, bool]:
        event = EventToAppend("chunk", '{"index": 0}')
        (answer,) = await line.leases.append([Append(claim.message_id, claim.lease, first_seq, [event])], True)
        return answer.status, answer.cancel_requested

    assert await append(claim.last_seq + 1) == ("ok", False)
    await line.lose_answer()
    assert await append(claim.last_seq + 2) == ("ok", False)
    assert line.lost
    assert await line.sql_client.types(claim.message_id) == ["queued", "started", "chunk", "chunk"]


def ending(claim: Claim, outcome: OutcomeKind) -> Finish:
    result = '"answer"' if outcome == "completed" else None
    return finish(claim, Outcome(outcome, result=result, error="why", delay_seconds=60.0))


def finish(claim: Claim, outcome: Outcome) -> Finish:
    return Finish(claim.message_id, claim.lease, outcome, None, claim.last_seq + 1, NO_EVENTS, claim.thread)


@pytest.mark.parametrize(
    ("outcome", "state", "hold"),
    [
        ("completed", "completed", None),
        ("error", "queued", "backoff"),
        ("rejected", "failed", None),
        ("released", "queued", None),
        ("deferred", "queued", "backoff"),
        ("overloaded", "queued", "backoff"),
        ("lost", "queued", "backoff"),
    ],
)
async def test_a_finish_can_be_repeated(
    line: LossyDatabase, outcome: OutcomeKind, state: str, hold: str | None
) -> None:
    """The repeat finds no lease, as after every finish. The message is as the first call left it, and its thread has
    continued once."""
    warm = await line.claimed()
    await line.leases.finish([ending(warm, "completed")], True, 3)
    claim = await line.claimed()
    await line.sql_client.submit(thread_id="t")
    await line.lose_answer()
    (answer,) = await line.leases.finish([ending(claim, outcome)], True, 3)
    assert line.lost
    assert answer.status == "lost"
    row = await line.sql_client.sql.fetchrow(
        "select state, hold, attempt, failures, losses from treadle.messages where message_id = $1", claim.message_id
    )
    assert row is not None
    assert (row["state"], row["hold"], row["attempt"]) == (state, hold, 1)
    assert (row["failures"], row["losses"]) == (outcome in ("error", "rejected"), outcome == "lost")
    free = [claim.message_id for claim in await line.sql_client.claim(10)]
    assert len(free) == (0 if hold else 1)


def letter(claim: Claim, child: UUID) -> str:
    return f'[{{"message_id": "{child}", "message": "x", "parent": "{claim.message_id}", "thread_id": "other"}}]'


async def test_a_step_that_sends_can_be_repeated(line: LossyDatabase) -> None:
    claim = await line.claimed()
    ids = [UUID(str(await line.sql_client.sql.fetchval("select treadle.uuid7()"))) for _ in range(2)]

    async def step(first_seq: int, child: UUID) -> str:
        event = EventToAppend("step", '{"name": "s", "result": 1}', letter(claim, child))
        answer = await line.leases.append_and_send(Append(claim.message_id, claim.lease, first_seq, [event]), True)
        return answer.status

    assert await step(claim.last_seq + 1, ids[0]) == "ok"
    await line.lose_answer()
    assert await step(claim.last_seq + 2, ids[1]) == "ok"
    assert line.lost
    assert await line.sql_client.types(claim.message_id) == ["queued", "started", "step", "step"]
    assert [(await line.sql_client.message(child))["ord"] for child in ids] == [1, 2]


@pytest.mark.parametrize("outcome", ["completed", "children", "input"])
async def test_a_finish_that_sends_can_be_repeated(line: LossyDatabase, outcome: OutcomeKind) -> None:
    for lost in (False, True):
        await line.sql_client.submit(thread_id="t")
        (claim,) = await line.sql_client.claim(1)
        child = UUID(str(await line.sql_client.sql.fetchval("select treadle.uuid7()")))
        end = Outcome(
            outcome,
            result='{"answer": 1}',
            error="why",
            sends=letter(claim, child),
            memory=f'{{"lost": {str(lost).lower()}}}' if outcome == "completed" else None,
            children=[child] if outcome == "children" else None,
        )
        if lost:
            await line.lose_answer()
        answer = await line.leases.conclude(finish(claim, end), True, 3)
        assert (line.lost, answer.status) == ((True, "lost") if lost else (False, end_state(outcome)))
        assert (await line.sql_client.message(child))["parent"] == claim.message_id
        row = await line.sql_client.message(claim.message_id)
        assert (row["state"], row["attempt"]) == (end_state(outcome), 1)
        if outcome == "completed":
            assert (await line.sql_client.thread("t"))["memory"] == {"lost": lost}
        else:
            assert await line.sql_client.cancel(claim.message_id) == "cancelled"
        await line.sql_client.run()
    await assert_consistent(line.sql_client.sql)


def end_state(outcome: str) -> str:
    return outcome if outcome == "completed" else "queued"


async def test_messages_of_a_lost_claim_are_given_back(line: LossyDatabase) -> None:
    """A claim is not repeated: the second heartbeat that does not name its messages gives them back, without a loss."""
    message_id = await line.sql_client.submit()

    async def claim(queue: str = "default") -> list[UUID]:
        claimed = await line.leases.claim(worker="w", queues=[queue], quantity=10, lease_seconds=60, first_lane="high")
        return [claim.message_id for claim in claimed.claims]

    await claim("nothing")
    await line.lose_answer()
    with pytest.raises(Unavailable):
        await claim()
    await line.sql_client.heartbeat("w", grace=0)
    assert await claim() == []
    await line.sql_client.heartbeat("w", grace=0)
    assert await claim() == [message_id]
    row = await line.sql_client.sql.fetchrow("select attempt, failures, losses from treadle.messages")
    assert row is not None
    assert tuple(row) == (2, 0, 0)


async def test_a_heartbeat_can_be_repeated(line: LossyDatabase) -> None:
    claim = await line.claimed()
    beat = "select * from treadle.heartbeat($1, 'host', 1, '{default}', 1, now(), null, $2, $3, 2, 60, 0)"

    async def answer(lease: UUID) -> list[str]:
        rows = await line.database.fetch(beat, "w", [claim.message_id], [lease])
        return [row["verdict"] for row in rows]

    assert await answer(claim.lease) == []
    await line.lose_answer()
    assert await answer(claim.lease) == []
    assert line.lost
    await line.lose_answer()
    assert await answer(uuid4()) == ["lost"]  # it released the unnamed message, and reports the named one


async def test_a_cancel_with_a_lost_answer_is_unavailable(line: LossyDatabase) -> None:
    """The cancel may have taken effect or not: the client is told so, and may cancel again."""
    message_id = await line.sql_client.submit()
    assert await line.messages.cancel(COMMAND_LINE, await line.sql_client.submit()) == "cancelled"
    await line.lose_answer()
    with pytest.raises(Unavailable):
        await line.messages.cancel(COMMAND_LINE, message_id)
    assert (await line.sql_client.state(message_id))[0] == "cancelled"
