"""/stats: what happened, in steps of time."""

from typing import Annotated

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from service.access.principal import Principal
from service.errors import Unprocessable
from service.params import parse_time
from service.statistics.model import Statistics
from service.statistics.store import StatisticsStore

NAME_RULE = "a name"
Name = Annotated[str | None, QueryParameter(min_length=1, max_length=100, description=NAME_RULE)]
From = Annotated[str | None, QueryParameter(name="from", description="A time (RFC 3339); an hour before `to`.")]
To = Annotated[str | None, QueryParameter(name="to", description="A time (RFC 3339); now.")]
StepSeconds = Annotated[
    int,  # never None: `step=null` would be taken for it
    QueryParameter(name="step", ge=0, le=31_536_000, description="a number of seconds, a multiple of 60, or 0 for any"),
]
Whole = Annotated[bool, QueryParameter(description="One step from `from` to `to`, with the percentiles of all of it.")]
By = Annotated[str | None, QueryParameter(name="by", description="`queue` or `agent`: figures of each by itself.")]


@get(
    "/stats",
    operation_id="getStatistics",
    scope="operate",
    unrestricted=True,
    summary="Read what happened, in steps of time",
    description="Of the messages of the caller's tenant; for a caller of the tenant default, of all tenants. Minutes"
    " are kept for 8 days, hours for 400.",
)
async def get_statistics(
    principal: NamedDependency[Principal],
    statistics: NamedDependency[StatisticsStore],
    queue: Name = None,
    agent: Name = None,
    from_: From = None,
    to: To = None,
    step: StepSeconds = 0,
    by: By = None,
    whole: Whole = False,
) -> Statistics:
    if by not in (None, "queue", "agent"):
        raise Unprocessable("by must be queue or agent.")
    if whole and step:
        raise Unprocessable("With whole there is one step: leave step out.")
    if step % 60:
        raise Unprocessable("step must be a number of seconds, a multiple of 60.")
    return await statistics.read(
        principal,
        begin=None if from_ is None else parse_time(from_, "from"),
        end=None if to is None else parse_time(to, "to"),
        step_seconds=step or None,
        queue=queue,
        agent=agent,
        by=by,  # type: ignore[arg-type]  # checked above
        whole=whole,
    )


router = Router("/", route_handlers=[get_statistics], tags=["Queues"])
