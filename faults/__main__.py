"""`python -m faults` (`make faults`): break things under load; prove that nothing is lost, doubled or out of order."""

import asyncio
import random
import resource
import signal
import sys
from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from faults.catalog import FAULTS
from faults.run import Plan, RunResult, run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(0.1, 600), default=2.0, show_default=True, help="Of load and faults.")
@click.option("--rate", type=click.FloatRange(1, 2000), default=100.0, show_default=True, help="Messages a second.")
@click.option("--seed", type=int, help="Repeats the choices of an earlier run (not their timing).")
@click.option("--only", metavar="FAULT,...", help="These faults; --list shows all.")
@click.option("--pause", type=click.FloatRange(0, 600), default=3.0, show_default=True, help="Longest, between faults.")
@click.option("--list", "listing", is_flag=True, help="Show all faults.")
@click.option("--keep", is_flag=True, help="Keep the logs and the journal even if nothing is wrong.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="File for the result.")
def main(
    minutes: float, rate: float, seed: int | None, only: str | None, pause: float, listing: bool, keep: bool, path: Path
) -> None:
    """Break things under load, and check by the records of clients, agents and SQL that every promise was kept.

    The exit code is 1 if a promise was broken.

    \b
    Examples:
      python -m faults --minutes 10 --rate 200
      python -m faults --only kill_worker,lose_answers --seed 7
    """
    console = Console()
    if listing:
        for fault_type in FAULTS.values():
            click.echo(f"{fault_type.name:28}{fault_type.about}")
        return
    names = [name.strip() for name in only.split(",")] if only else list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        raise click.BadParameter(f"there is no fault {unknown[0]!r}; --list shows all.", param_hint="--only")
    chosen = random.randrange(2**32) if seed is None else seed
    console.print(f"seed {chosen}", highlight=False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # hundreds of connections, each twice through a proxy
    plan = Plan(chosen, minutes * 60, rate, names, pause, keep=keep)
    try:
        result = uvloop.run(_run(plan, console))
    except asyncio.CancelledError:
        sys.exit(130)
    show(result, console)
    if path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    sys.exit(1 if result.wrong else 0)


async def _run(plan: Plan, console: Console) -> RunResult:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    columns = (SpinnerColumn(), TextColumn("{task.description:<28}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=plan.seconds)
        began = asyncio.get_running_loop().time()

        def tell(what: str) -> None:
            if not console.is_terminal:
                console.print(f"{asyncio.get_running_loop().time() - began:6.1f} s  {what}", highlight=False)
            progress.update(bar, description=what, completed=asyncio.get_running_loop().time() - began)

        return await run(plan, tell)


def show(result: RunResult, console: Console) -> None:
    counts = Table("", "", title="what happened", show_header=False)
    for name, count in result.counts.items():
        counts.add_row(name.replace("_", " "), f"{count:,}")
    console.print(counts)
    faults = Table("fault", "times", "seconds at most", "without effect", title="what was broken")
    for name in dict.fromkeys(fault.name for fault in result.faults):
        ours = [fault for fault in result.faults if fault.name == name]
        without_effect = sum(bool(fault.detail) for fault in ours)
        seconds = max(fault.ended - fault.began for fault in ours)
        faults.add_row(name, str(len(ours)), f"{seconds:.1f}", str(without_effect) if without_effect else "")
    console.print(faults)
    for fault in result.faults:
        if fault.detail:
            console.print(f"without effect: {fault.name}: {fault.detail}", highlight=False, markup=False)
    if result.recoveries:
        times = Table("from ... to", "times", "median s", "worst s", title="how soon the service recovered")
        for what, row in result.recoveries.items():
            times.add_row(what, f"{row['times']:g}", f"{row['median']:g}", f"{row['worst']:g}")
        console.print(times)
    memory = ", ".join(f"{kilobytes / 1024:.0f} MiB {when}" for when, kilobytes in result.api_kilobytes.items())
    console.print(f"resident memory of an API: {memory}", highlight=False)
    if not result.wrong:
        console.print("every promise was kept", style="bold green")
        return
    for promise, wrong in result.wrong.items():
        console.print(f"BROKEN: {promise} ({len(wrong)})", style="bold red")
        for sentence in wrong[:10]:
            console.print(f"  {sentence}", highlight=False, markup=False)
    console.print(f"logs and journal are in {result.folder}; repeat with --seed {result.seed}", highlight=False)


if __name__ == "__main__":
    main()
