"""`treadle plan` says what loads need that were never measured, from costs that were."""

import json
import math
from pathlib import Path

import msgspec
import pytest

from service.capacity import costs as measured
from service.capacity.costs import Cost, Costs, Sample
from service.capacity.model import Load, Model
from service.errors import ConfigError
from tests.support.cli_runner import Cli


def sample(messages: float, tokens: float, read: float, cores: float) -> Sample:
    return Sample("", messages, tokens, read, Cost(cores, cores / 2, cores / 4, cores * 1e6, cores * 1e5))


SAMPLES = [
    sample(0, 0, 0, 0.01),
    sample(100, 0, 0, 0.11),
    sample(1_000, 0, 0, 0.51),
    # Tokens cost 0.046 for 1,000, a message that emits 0.0004 beside its tokens, and one that is read as much again.
    sample(10, 1_000, 0, 0.07),
    sample(50, 500, 0, 0.103),
    sample(10, 1_000, 1_000, 0.09),
    sample(50, 500, 500, 0.131),
]


def test_a_cost_is_the_sum_of_its_parts_and_grows_as_measured() -> None:
    model = Model(Costs("", SAMPLES))
    for known in SAMPLES:
        assert model.predict(known).postgres == pytest.approx(known.cost.postgres)
    assert model.cost(50, 0, 0).postgres == pytest.approx(0.01 + 0.05)  # below the first point
    fivefold = math.log10(5)  # that a tenfold rate of messages costs, as a power
    assert model.cost(550, 0, 0).postgres == pytest.approx(0.01 + 0.1 * 5.5**fivefold)  # between two points
    assert model.cost(2_000, 0, 0).postgres == pytest.approx(0.01 + 0.5 * 2**fivefold)  # beyond the last one
    assert model.cost(550, 500, 0).postgres == pytest.approx(0.01 + 0.1 * 5.5**fivefold + 0.22 + 0.023)
    assert model.cost(20, 500, 500).api == pytest.approx((0.03 + 0.008 + 0.023 + 0.008 + 0.008) / 2)


def test_the_costs_that_come_with_treadle_tell_loads_that_the_plan_does_not_know() -> None:
    costs = measured.read()
    model = Model(costs)
    assert len(costs.mixed) >= 3
    for known in costs.mixed:
        said, was = model.predict(known), known.cost
        assert _cores(said) == pytest.approx(_cores(was), rel=0.2), known.name
        assert said.wal == pytest.approx(was.wal, rel=0.2), known.name


def _cores(cost: Cost) -> float:
    return cost.postgres + cost.api + cost.worker


def test_a_large_load_gets_processes_and_connections_for_it() -> None:
    plan = Model(Costs("", SAMPLES)).plan(Load(10_000, 100, 1e6, 50), api_connections=24, worker_connections=9)
    assert plan.cores >= 90 / 0.7  # a million tokens a second at 0.046 cores for a thousand, in PostgreSQL alone
    assert plan.worker_processes >= 1_000 * 0.0115 / 0.7
    assert plan.connections == plan.api_processes * 24 + plan.worker_processes * 9
    assert plan.worker_processes * plan.worker_concurrency >= 20_000


def test_a_higher_rate_costs_no_less() -> None:
    model = Model(Costs("", [*SAMPLES, sample(2_000, 0, 0, 0.31)]))
    assert model.cost(2_000, 0, 0).postgres == pytest.approx(0.51)


async def test_the_command_says_it_to_people_and_to_machines(cli: Cli, tmp_path: Path) -> None:
    asked = ("plan", "--messages-per-second", "50", "--tokens-per-message", "400", "--streams", "300")
    said = (await cli(*asked)).output
    for part in ("cores", "API processes", "worker processes", "connections", "WAL", "disk", "RETENTION_HOURS=168"):
        assert part in said
    found = json.loads((await cli(*asked, "--json")).stdout)
    assert found["wal_bytes_per_day"] > found["growth_bytes_per_day"] > 0
    broken = tmp_path / "broken.json"
    for text, reason in (("{", "is no result"), (_report([]), "has not all rows")):
        broken.write_text(text)
        refused = await cli(*asked, "--costs", str(broken))
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
        assert reason in refused.output
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        measured.read(tmp_path / "missing.json")


@pytest.mark.parametrize("option", ["--messages-per-second", "--tokens-per-message", "--streams", "--token-rate"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400"])
async def test_a_number_that_no_load_has_is_refused(cli: Cli, option: str, value: str) -> None:
    others = () if option == "--messages-per-second" else ("--messages-per-second", "50")
    refused = await cli("plan", *others, f"{option}={value}")
    assert refused.exit_code == 2
    assert f"Error: Invalid value for '{option}': " in refused.stderr.splitlines()[-1]


async def test_the_smallest_and_the_largest_load_have_a_plan(cli: Cli) -> None:
    for value in ("1e-300", "1e9"):
        numbers = ("--tokens-per-message", value, "--streams", value, "--token-rate", "0.001")
        assert (await cli("plan", "--messages-per-second", value, *numbers, "--json")).exit_code == 0


def _report(rows: list[object]) -> str:
    return msgspec.json.encode(
        {"date": "2026-11-29", "machine": {"cpu": "Loom", "cores": 2, "load_average": [0.1]}, "rows": rows}
    ).decode()
