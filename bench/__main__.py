"""`python -m bench`: measure Treadle against an embedded PostgreSQL with durable commits (`make bench`)."""

import asyncio
import os
import resource
import signal
import sys
import time
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import history, meter, report
from bench.cases import (
    capacity,
    churn,
    crowds,
    drain,
    eyes,
    fairness,
    flatness,
    latency,
    long_logs,
    peers,
    refusals,
    streaming,
    submit,
    tokens,
    topics,
)
from bench.processes import BenchError
from bench.server import SETTINGS, running_server
from bench.stage import Case, Stage
from service.errors import TreadleError

CASES: dict[str, Case] = {
    "submit": submit.run,
    "drain": drain.run,
    "peers": peers.run,
    "latency": latency.run,
    "fairness": fairness.run,
    "streaming": streaming.run,
    "tokens": tokens.run,
    "long_logs": long_logs.run,
    "flatness": flatness.run,
    "churn": churn.run,
    "topics": topics.run,
    "crowds": crowds.run,
    "capacity": capacity.run,
    "eyes": eyes.run,
    "refusals": refusals.run,
}
TABLE_COLUMNS = 130  # the tables need so many
LATEST_RESULT = Path(__file__).parent / "results" / "latest.json"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Everything small, within two minutes: shows that it works, not how fast.")
@click.option("--only", metavar="CASE,...", help=f"Only these of {', '.join(CASES)}.")
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=LATEST_RESULT,
    show_default="bench/results/latest.json",
    help="File for the results as JSON.",
)
@click.option("--profile", is_flag=True, help="Also show the statements that PostgreSQL spends most time on (slower).")
def main(quick: bool, only: str | None, path: Path, profile: bool) -> None:
    """Measure Treadle and its peers on this machine."""
    names = [name.strip() for name in only.split(",")] if only else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise click.BadParameter(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}.", param_hint="--only")
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # a thousand streams are a thousand sockets
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)
    try:
        found = uvloop.run(_measure(names, console, quick=quick, profile=profile))
    except (BenchError, TreadleError) as error:
        raise click.ClickException(str(error)) from error
    except asyncio.CancelledError:
        sys.exit(130)
    report.show(found, console)
    found.save(path)
    history.append(found)
    if found.failed:
        sys.exit(1)
    console.print(f"results are in {os.path.relpath(path)}", style="dim")


async def _measure(names: list[str], console: Console, *, quick: bool, profile: bool) -> report.Report:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(12), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[doing]}"), console=console, transient=True) as progress:
        starting = progress.add_task("PostgreSQL", total=None, doing="starting")
        async with running_server(profile) as server:
            found = report.new_report(quick, meter.machine(), await server.versions(), SETTINGS)
            found.machine["commit_ms"] = round(await server.commit_ms(), 3)
            progress.update(starting, total=1, completed=1, doing="")
            stage = Stage(server, found, progress, quick=quick, profile=profile)
            for name in names:
                stage.begin(name)
                began = time.monotonic()
                try:
                    await CASES[name](stage)
                except Exception as error:  # the other cases still give results
                    found.failed.append(f"{name}: {str(error) or type(error).__name__}")
                found.took[name] = round(time.monotonic() - began, 1)
                stage.end()
    found.machine["load_average_after"] = list(os.getloadavg())
    found.close()
    return found


if __name__ == "__main__":
    main()
