"""Plan: what a load needs, from measured costs."""

import math
from pathlib import Path
from typing import Any

import click

from service.capacity import costs as measured
from service.capacity.model import BUSY_SHARE, Load, Model, Plan
from service.cli import common, show
from service.config import Settings

LISTENER_CONNECTIONS = 1
HEARTBEAT_CONNECTIONS = 2  # its own and that of its stand-in
HOURS_PER_DAY = 24


class Rate(click.FloatRange):
    """A range that does not have `nan`, which click takes for a number of each range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid float.", param, ctx)
        return number


positive = Rate(min=0, min_open=True, max=1e9)
not_negative = Rate(min=0, max=1e9)
token_rates = Rate(min=0.001, max=1e9)


@click.command()
@click.option("--messages-per-second", type=positive, required=True, help="Messages that clients submit.")
@click.option("--tokens-per-message", type=not_negative, default=0, show_default=True, help="Chunks that agents emit.")
@click.option("--streams", type=not_negative, default=0, show_default=True, help="Streams that are open at once.")
@click.option("--token-rate", type=token_rates, default=50, show_default=True, help="Tokens of an agent in a second.")
@click.option(
    "--costs",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Costs measured on your machine: a result of python -m bench --only capacity.",
)
@common.as_json
@click.pass_obj
def plan(
    settings: Settings,
    messages_per_second: float,
    tokens_per_message: float,
    streams: float,
    token_rate: float,
    path: Path | None,
    as_json: bool,
) -> None:
    """Say what a load needs: cores, processes, connections, WAL and disk.

    The costs were measured with messages of 200 bytes and agents that compute nothing: what your agents compute comes
    on top. Of the streams as many receive tokens as messages run.

    \b
    Examples:
      treadle plan --messages-per-second 50 --tokens-per-message 400 --streams 500
      treadle plan --messages-per-second 1000 --json
    """
    from service.api import pools
    from service.cli.wiring import WORKER_CONNECTIONS

    costs = measured.read(path)
    load = Load(messages_per_second, tokens_per_message, streams, token_rate)
    api_connections = pools.MOST_CONNECTIONS + LISTENER_CONNECTIONS
    worker_connections = WORKER_CONNECTIONS + LISTENER_CONNECTIONS + HEARTBEAT_CONNECTIONS
    found = Model(costs).plan(load, api_connections=api_connections, worker_connections=worker_connections)
    if as_json:
        show.as_json(found)
        return
    show.facts(_facts(found, settings.retention_hours))
    click.echo(f"\nMeasured on {costs.origin}.", err=True)


def _facts(plan: Plan, retention_hours: float) -> dict[str, str]:
    used = plan.cores_postgres + plan.cores_api + plan.cores_worker
    kept = plan.growth_bytes_per_day / HOURS_PER_DAY * retention_hours
    return {
        "cores": f"{plan.cores}, of which {used:.2f} are busy (at most {BUSY_SHARE:.0%})",
        "busy": f"PostgreSQL {plan.cores_postgres:.2f}, API {plan.cores_api:.2f}, workers {plan.cores_worker:.2f}",
        "API processes": f"{plan.api_processes}",
        "worker processes": f"{plan.worker_processes} with WORKER_CONCURRENCY={plan.worker_concurrency}",
        "connections": f"{plan.connections} (max_connections of PostgreSQL)",
        "WAL": f"{_size(plan.wal_bytes_per_day)} a day",
        "disk": f"{_size(plan.growth_bytes_per_day)} a day, {_size(kept)} in all (RETENTION_HOURS={retention_hours:g})",
    }


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
