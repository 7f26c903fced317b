"""The janitor and an operator in the state machine over the SQL functions and their model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.support.sql_model_rows import HOUR, INTERVAL, MAX_LOSSES, TIMEOUT
from tests.support.sql_rows import fetch_row
from tests.support.state_machine_sessions import CHORES, DRAW_IDS, WORKERS
from tests.support.state_machine_workers import WorkerMachine


class JanitorMachine(WorkerMachine):
    """The machine with clients, workers, a janitor and an operator."""

    # The janitor

    @rule(hours=st.sampled_from((1, 1, 2, 3, 5, 30)), steady=st.booleans())
    def pass_time(self, hours: int, steady: bool) -> None:
        """`steady`: the janitor beats each hour of it."""
        for _ in range(hours):
            self.now += 1
            if steady and hours <= 5:
                self.run(self.on.janitor.shift_clock(self.now * HOUR))
                self.heartbeat(self.on.janitor, "janitor", [], 0)
        self.run(self.on.shift_clock(self.now))

    @precondition(lambda self: any(m.lease for m in self.model.messages.values()))
    @rule(worker=st.sampled_from(WORKERS), hours=st.sampled_from((1, 2, 3)), steady=st.booleans())
    def vanish(self, worker: str, hours: int, steady: bool) -> None:
        """Its connection is gone, and time passes."""
        if worker not in self.silent:
            self.hang_up_or_listen(worker)
        self.reap()
        self.pass_time(hours=hours, steady=steady)
        self.reap()

    @precondition(lambda self: any(m.lease for m in self.model.messages.values()))
    @rule()
    def reap(self) -> None:
        self.ask(
            self.on.janitor.reap(
                "janitor",
                interval=INTERVAL * HOUR,
                worker_timeout=TIMEOUT * HOUR,
                max_losses=MAX_LOSSES,
                awake=False,
            ),
            lambda: self.model.reap("janitor", self.silent, self.now),
        )

    @precondition(lambda self: any(m.hold in ("delay", "backoff") for m in self.model.messages.values()))
    @rule()
    def admit_due(self) -> None:
        if self.came_late:  # a sweep that looks back does this
            self.run(self.on.janitor.sql.execute("select treadle._lower_due_mark()"))
            self.came_late = False
        self.ask(
            self.on.janitor.sql.fetchval("select admitted from treadle.admit_due()"),
            lambda: self.model.admit_due(self.now),
        )

    @rule(chores=st.lists(st.sampled_from(CHORES), max_size=3), many=st.booleans())
    def chores(self, chores: list[str], many: bool) -> None:
        if many:
            self.run(self.on.client.sql.execute(DRAW_IDS))
        for chore in chores:
            self.run(self.on.janitor.sql.execute(f"select treadle.{chore}"))

    @rule(data=st.data())
    def mend_lanes(self, data: st.DataObject) -> None:
        """A plain client of PGMQ has deleted the rows of some that may run."""
        ready = [m for m in self.model.messages.values() if m.state == "queued" and not m.hold and not self.locked(m)]
        gone = data.draw(st.lists(st.sampled_from(ready), max_size=2, unique=True)) if ready else []
        for message in gone:
            queue, lane, id = self.lane_ids[message.id]
            assert self.run(self.on.client.sql.fetchval("select pgmq.delete($1, $2::bigint)", f"{queue}_{lane}", id))
        self.ask(
            self.on.janitor.sql.fetchval("select mended from treadle.mend_lanes(null)"),
            lambda: len(gone),
        )

    @precondition(lambda self: any(m.completed_at is not None for m in self.model.messages.values()) or self.keys)
    @rule(hours=st.sampled_from((1, 3, 30)), dead_hours=st.sampled_from((1, 3, 30)))
    def purge(self, hours: int, dead_hours: int) -> None:
        async def rounds() -> int:
            purged: int = 0
            last = None
            while True:
                row = await fetch_row(
                    self.on.janitor.sql, "select * from treadle.purge($1, $2, $3)", hours, dead_hours, last
                )
                purged += int(row["purged"])
                last = row["last"]
                if last is None:
                    return purged

        old = [name for name, key in self.keys.items() if key.at + 24 <= self.now]
        self.ask(rounds(), lambda: len(old) + self.model.purge(hours, dead_hours, self.now, self.held_threads))
        for key in old:
            del self.keys[key]

    # An operator

    @rule(queue=st.sampled_from(("default", "side")))
    def pause_or_resume(self, queue: str) -> None:
        self.model.paused ^= {queue}
        self.run(self.on.client.sql.execute("select treadle.pause($1, $2)", queue, queue in self.model.paused))

    @precondition(lambda self: not self.late)
    @rule()
    def create_queue(self) -> None:
        self.run(self.on.client.register({"agent": "late", "queue": "late"}))
        self.late = True
