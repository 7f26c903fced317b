"""Statistics in PostgreSQL."""

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Literal, TypeAlias

from asyncpg import Record

from service.access.principal import Principal
from service.batching import SharedReads
from service.db.fair import tenant_of_request
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import Unprocessable
from service.statistics.model import Percentiles, Statistics, Step

By: TypeAlias = Literal["queue", "agent"]
Asked: TypeAlias = tuple[
    str | None, datetime, datetime, int | None, str | None, str | None, By | None
]  # values of READ

MAX_STEPS = 500
MINUTES_HOURS = 26.0  # that statistics by the minute may span
MINUTES_DAYS = 8.0  # that they are kept
HOUR_SECONDS = 3600
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
LENGTHS = {"wait": "waits", "run": "runs", "first_chunk": "first_chunks"}
QUANTILES = ", ".join(
    f"treadle._quantile(s.{column}, {share}) as {name}_{percent}"
    for name, column in LENGTHS.items()
    for percent, share in SHARES.items()
)
READ = f"""
    select s.at, s.name, s.submitted, s.completed, s.failed, s.retried, s.cancelled, s.lost, s.input_tokens,
        s.output_tokens, s.cost, {QUANTILES}
    from treadle.read_stats(
        of_tenant => $1, first => $2, past => $3, step => $4, queue => $5, agent => $6, by => $7) s
    order by s.at, s.name"""


class StatisticsStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads = SharedReads(self._rows)

    async def read(
        self,
        principal: Principal,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        step_seconds: int | None = None,
        queue: str | None = None,
        agent: str | None = None,
        by: By | None = None,
        whole: bool = False,
    ) -> Statistics:
        """Of the last hour, unless `begin` or `end` say otherwise; of all tenants for an operator. `whole`: in one
        step. Raises Unprocessable for a span that is empty or has too many steps."""
        end = end or datetime.now(UTC) + timedelta(seconds=1)
        begin = begin or end - timedelta(hours=1)
        span = (end - begin).total_seconds()
        if span <= 0:
            raise Unprocessable("to must be later than from.")
        step = ceil(span) if whole else _step(span, begin, step_seconds)
        if span > step * MAX_STEPS:
            raise Unprocessable(f"There must be at most {MAX_STEPS} steps between from and to: send a larger step.")
        tenant = None if principal.is_operator else principal.tenant
        rows = await self._reads.ask((tenant, begin, end, None if whole else step, queue, agent, by))
        return Statistics(begin, end, step, [_step_of(row) for row in rows])

    async def _rows(self, asked: Asked) -> list[Record]:
        tenant_of_request.set(asked[0] or "")
        return await self._database.fetch(READ, *asked)


def _step(span: float, begin: datetime, asked: int | None) -> int:
    """The length of a step: a day at most by itself; at least an hour where there are no rows of minutes."""
    if asked is None:
        asked = next((step for step in (60, 300, 900, HOUR_SECONDS, 6 * HOUR_SECONDS) if span <= step * 120), 86_400)
    by_minute = span <= MINUTES_HOURS * 3600 and begin > datetime.now(UTC) - timedelta(days=MINUTES_DAYS)
    return asked if by_minute else max(asked, HOUR_SECONDS)


def _step_of(row: Record) -> Step:
    wait, run, first_chunk = (Percentiles(*(row[f"{name}_{percent}"] for percent in SHARES)) for name in LENGTHS)
    return from_row(Step, row, wait=wait, run=run, first_chunk=first_chunk)
