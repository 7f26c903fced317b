"""/metrics: what this process counts, and the figures of the installation, for Prometheus."""

from collections.abc import Iterator, Sequence
from typing import Any

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.batching import Batcher
from service.errors import TreadleError
from service.installation.model import Figures
from service.installation.store import InstallationStore
from service.metrics.exposition import encode, new_registry
from service.metrics.process import Pool, ProcessMetrics

TEXT = "text/plain"
AGENT_LABELS = 200  # agents of remote workers that have figures of their own; all others are `other`
OF_QUEUES = {
    "queued": ("treadle_queue_depth", "Messages that wait, with those that are held."),
    "ready": ("treadle_queue_ready", "Messages that a worker could claim now; exact to 1,000 a lane."),
    "processing": ("treadle_queue_processing", "Messages that workers run."),
    "oldest_seconds": ("treadle_queue_oldest_seconds", "How long the oldest ready message waits, or 0."),
    "paused": ("treadle_queue_paused", "1 while the queue is paused."),
    "workers": ("treadle_queue_workers", "Living workers that claim from the queue."),
}
OF_ALL = {
    "live_workers": ("treadle_workers", "Workers with a heartbeat in the last ten seconds."),
    "dead_rows": ("treadle_dead_rows", "Dead rows of the table that has the most; 0: less than a tenth of its rows."),
    "snapshot_seconds": ("treadle_oldest_snapshot_seconds", "Age of the oldest snapshot that keeps dead rows."),
    "records_waiting_seconds": ("treadle_records_waiting_seconds", "How long the oldest record waits for its offset."),
    "records_undelivered": ("treadle_records_undelivered", "Records that subscriptions still have to receive."),
    "notify_usage": ("treadle_notify_queue_usage", "How full PostgreSQL's queue of notifications is, up to 1."),
}


class Scrapes:
    """Answers scrapes. Those that arrive at the same time share one query."""

    def __init__(self, installation: InstallationStore, pools: Sequence[Pool]) -> None:
        self.metrics = ProcessMetrics(pools=pools, more_agents=AGENT_LABELS)
        self._installation = installation
        self._figures: Batcher[None, Figures] = Batcher(self._read, limit=1_000)

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """The text and its media type."""
        try:
            figures = await self._figures.submit(None)
        except TreadleError:
            figures = None  # the figures of this process are worth most while PostgreSQL is away
        return encode(new_registry(self.metrics, InstallationFigures(figures)), accept)

    async def _read(self, scrapes: Sequence[None], _: bool) -> list[Figures]:
        return [await self._installation.figures()] * len(scrapes)


class InstallationFigures(Collector):
    """`figures`: None where PostgreSQL did not answer."""

    def __init__(self, figures: Figures | None) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "treadle_database_up", "1 if PostgreSQL answered this scrape.", float(self._figures is not None)
        )
        for field, (name, help) in OF_QUEUES.items():
            family = GaugeMetricFamily(name, help, labels=("queue",))
            for queue in self._figures.queues if self._figures else ():
                family.add_metric((queue.queue,), float(getattr(queue, field) or 0))
            yield family
        lags = GaugeMetricFamily(
            "treadle_subscription_lag", "Records that a subscription has not received.", labels=("subscription",)
        )
        for each in self._figures.subscriptions if self._figures else ():
            lags.add_metric((each.subscription,), float(each.lag))
        yield lags
        for field, (name, help) in OF_ALL.items():
            if self._figures:
                yield GaugeMetricFamily(name, help, float(getattr(self._figures, field)))


@get(
    "/metrics",
    operation_id="getMetrics",
    scope="read",
    operators_only=True,
    summary="Get the metrics of this process and of the installation, for Prometheus",
    media_type=TEXT,
)
async def get_metrics(request: Request[Any, Any, Any], scrapes: NamedDependency[Scrapes]) -> Response[bytes]:
    text, media_type = await scrapes.answer(request.headers.get("accept", ""))
    return Response(text, media_type=media_type)


router = Router("/", route_handlers=[get_metrics], tags=["Health"])
