"""GET /stats and `treadle stats`: what happened, in steps of time."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from service.agents.builtin.echo import echo
from tests.support.api_answers import get, problem
from tests.support.api_client import Client
from tests.support.cli_runner import Cli
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import until
from treadle import Context, agent


@agent("writer")
async def writer(context: Context, text: str) -> str:
    await context.emit("a chunk")
    context.usage(input_tokens=3, output_tokens=5, cost_usd=0.5)
    return text


async def test_what_workers_did_is_told_in_steps(start_api: StartApi, start_worker: StartWorker, cli: Cli) -> None:
    await start_worker(echo, writer)
    api = await start_api()
    for name in ("echo", "writer", "writer"):
        await api.settled(await api.submit("x", agent=name))

    async def by_agent() -> dict[str, Any]:
        found = await get(api, "/stats", by="agent", whole="true")  # not by the day, which may end just now
        return {step["name"]: step for step in found["steps"]}

    found = await until(by_agent, lambda steps: steps.get("writer", {}).get("completed") == 2)
    assert found["writer"]["submitted"] == 2
    assert (found["writer"]["output_tokens"], found["writer"]["cost"]) == (10, 1)
    assert 0 < found["writer"]["first_chunk"]["p50"] <= 10
    assert found["echo"]["first_chunk"]["p50"] is None or found["echo"]["first_chunk"]["p50"] > 0
    assert found["echo"]["run"]["p95"] > 0
    hour = await get(api, "/stats", queue="default")
    assert (hour["step_seconds"], sum(step["completed"] for step in hour["steps"])) == (60, 3)
    assert (await get(api, "/stats", agent="nope"))["steps"] == []
    begin = datetime.now(UTC) - timedelta(hours=24)
    for since in (begin, begin.replace(minute=0, second=0, microsecond=0)):  # by the minute, by the hour
        day = await get(api, "/stats", by="agent", whole="true", **{"from": since.isoformat()})
        assert {step["name"]: step["completed"] for step in day["steps"]} == {"echo": 1, "writer": 2}
        assert {step["at"] for step in day["steps"]} == {day["begin"]}
        assert day["steps"][1]["run"]["p95"] > 0
    week = {"from": (datetime.now(UTC) - timedelta(days=7)).isoformat()}
    assert (await get(api, "/stats", **week))["step_seconds"] == 21_600
    told = json.loads((await cli("stats", "--by", "agent", "--json")).stdout)
    assert {step["name"] for step in told["steps"]} == {"echo", "writer"}
    assert "run p95" in (await cli("stats")).stdout
    assert (await cli("stats", "--agent", "nope")).stdout == "Nothing happened.\n"


async def test_spans_and_steps_that_fit_nothing_are_refused(api: Client) -> None:
    problem(await api.get("/stats", params={"by": "tenant"}), 422, "queue or agent")
    problem(await api.get("/stats", params={"step": 60, "whole": True}), 422, "leave step out")
    problem(await api.get("/stats", params={"step": 90}), 422, "multiple of 60")
    problem(await api.get("/stats", params={"step": "null"}), 400, "step must be")
    problem(await api.get("/stats", params={"from": "today"}), 400, "from must be")
    span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
    problem(await api.get("/stats", params=span), 422, "later than from")
    problem(await api.get("/stats", params={"from": "2020-01-01T00:00:00Z", "step": 3600}), 422, "500 steps")
