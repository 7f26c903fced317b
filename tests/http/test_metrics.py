"""What Prometheus reads from an API and from a worker, and the files of deploy/ that use it."""

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.agents.builtin.echo import echo
from service.api.metrics import InstallationFigures, Scrapes
from service.cli import run
from service.config import Settings
from service.db.pool import Connection
from service.errors import ConfigError
from service.installation.model import Figures, Lag, QueueFigures
from service.installation.store import InstallationStore
from service.metrics.exposition import new_registry
from service.metrics.process import ProcessMetrics
from service.metrics.server import serving
from tests.support.agents import reject
from tests.support.api_answers import UNKNOWN_ID
from tests.support.api_client import Client
from tests.support.documents import DOCS, rows, section
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import settled, submit
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip
from tests.support.shared_queries import SharedQuery
from tests.support.waiting import LIMIT_SECONDS, until
from treadle import Context, agent

DASHBOARD = ROOT / "deploy/grafana/treadle.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
Samples = dict[tuple[str, ...], float]


async def scrape(api: Client) -> Samples:
    answer = await api.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


def samples(text: str) -> Samples:
    """By name and the values of the labels, in the alphabetical order of their names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_an_api_counts_what_it_does_and_shows_the_queues(api: Client, sql: Connection) -> None:
    for n in range(3):
        await api.submit(f"{n}")
    await api.submit("later", delay_seconds=1000)
    assert (await api.post("/messages", json={"message": "x", "agent": "missing"})).status_code == 422
    assert (await api.get(f"/messages/{UNKNOWN_ID}/status")).status_code == 404
    assert (await api.get("/nowhere/at/all")).status_code == 404
    await sql.execute("select treadle.pause('default', true)")
    found = await scrape(api)
    assert found["treadle_messages_submitted_total", "default", "queued"] == 4
    assert found["treadle_http_requests_total", "POST", "/messages", "202"] == 4
    assert found["treadle_http_requests_total", "GET", "/messages/{message_id}/status", "404"] == 1
    assert found["treadle_http_requests_total", "GET", "other", "404"] == 1
    assert found["treadle_http_request_seconds_count", "/messages"] == 5
    assert found["treadle_database_calls_total", "none", "api"] >= 4
    assert found["treadle_pool_connections", "api", "limit"] == 10
    assert found["treadle_database_up",] == 1
    assert found["treadle_queue_depth", "default"] == 4
    assert found["treadle_queue_ready", "default"] == 3
    assert found["treadle_queue_oldest_seconds", "default"] > 0
    assert (found["treadle_queue_paused", "default"], found["treadle_queue_workers", "default"]) == (1, 0)
    assert found["process_resident_memory_bytes",] > 1e6
    assert UNKNOWN_ID not in str(found)


async def test_open_streams_are_counted_until_they_end(scripted_api: Client) -> None:
    message_id = await scripted_api.submit("x", agent="script")
    open_streams = ("treadle_open_streams", "message")
    async with scripted_api.stream("GET", f"/messages/{message_id}/stream") as stream:
        lines = stream.aiter_lines()  # its end would close the stream
        await anext(lines)
        assert (await scrape(scripted_api))[open_streams] == 1
    await until(lambda: scrape(scripted_api), lambda found: found[open_streams] == 0)
    found = await scrape(scripted_api)
    assert found["treadle_streams_opened_total", "message"] == 1
    assert {kind for name, *labels in found for kind in labels if name == "treadle_open_streams"} == {
        *("message", "thread", "topic", "changes", "socket")
    }


async def test_scrapes_at_the_same_time_share_a_query(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedQuery(monkeypatch, asked=(Scrapes, "answer"), query=(InstallationStore, "figures"))
    answers = await shared.ask(20, lambda: scrape(api))
    assert {found["treadle_database_up",] for found in answers} == {1}
    assert shared.queries <= 2  # of the first scrape and those at its side, and of those that came meanwhile


async def test_an_api_answers_while_postgresql_is_away(start_api: StartApi) -> None:
    api = await start_api(database_url="postgresql://treadle@127.0.0.1:1/treadle")
    found = await scrape(api)
    assert found["treadle_database_up",] == 0
    assert found["treadle_database_calls_total", "NotConnected", "api health"] == 1
    assert not [name for name, *_ in found if name.startswith("treadle_queue")]


@agent("counts")
async def counts(context: Context, text: str) -> str:
    await context.step("paid", lambda: context.usage(prompt_tokens=7, cost=0.1))
    context.usage(output_tokens=3, completion_tokens=4, input_tokens=True, model="m")  # True is no number
    return text


async def test_a_worker_counts_the_messages_that_it_runs(start_worker: StartWorker, sql: Connection) -> None:
    worker = await start_worker(echo, reject, counts)
    metrics = ProcessMetrics(pools=worker.pools, agents=["echo"], worker=worker)
    with metrics.listening(), serving(new_registry(metrics), "127.0.0.1", 0) as port:
        for name in ("echo", "echo", "reject", "counts"):
            await settled(sql, await submit(sql, "hello", agent=name))
        await until(lambda: worker.running == (0, 100))
        status, text = await asyncio.to_thread(get, port, f"127.0.0.1:{port}")
        assert status == 200
        found = samples(text)
        refused, _ = await asyncio.to_thread(get, port, "rebound.example")
    assert found["treadle_messages_claimed_total", "default"] == 4
    assert found["treadle_tokens_total", "other", "input", "default"] == 7
    assert found["treadle_tokens_total", "other", "output", "default"] == 3
    assert found["treadle_messages_finished_total", "echo", "default", "completed"] == 2
    assert found["treadle_messages_finished_total", "other", "default", "failed"] == 1
    assert found["treadle_attempts_total", "other", "rejected", "default"] == 1
    for histogram in ("message_wait", "attempt_run", "first_chunk"):
        assert found[f"treadle_{histogram}_seconds_count", "echo", "default"] == 2
        assert found[f"treadle_{histogram}_seconds_bucket", "echo", "+Inf", "default"] == 2
    assert found["treadle_events_written_total",] == await sql.fetchval(
        "select count(*) from treadle.events where type in ('chunk', 'step')"
    )
    assert found["treadle_worker_concurrency",] == 100
    assert found["treadle_worker_held_characters",] == 0
    assert refused == 421


def get(port: int, host: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    connection.request("GET", "/metrics", headers={"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


async def test_metrics_port_decides_whether_a_worker_serves_them(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of `treadle up` take one port after another, and wait for it. Elsewhere a port that is taken is one
    sentence."""
    worker = await start_worker()
    with run._metrics(Settings(), worker, ["echo"]):
        assert "metrics" not in {thread.name for thread in threading.enumerate()}
    monkeypatch.setattr("service.metrics.server.RETRY_SECONDS", 0.01)
    with contextlib.ExitStack() as ends:
        with serving(new_registry(), "127.0.0.1", 0) as taken:
            with pytest.raises(
                ConfigError, match=rf"^METRICS_PORT: nothing can listen on 127\.0\.0\.1, port {taken}: .*\.$"
            ):
                run._metrics(Settings(metrics_port=taken), worker, ["echo"]).__enter__()
            monkeypatch.setenv("TREADLE_SLOT", "worker-2")
            ends.enter_context(run._metrics(Settings(metrics_port=taken - 1), worker, ["echo"]))
            assert "treadle_worker_running" not in (await asyncio.to_thread(get, taken, "127.0.0.1"))[1]

        async def scraped() -> bool:
            with contextlib.suppress(OSError):
                return "treadle_worker_running" in (await asyncio.to_thread(get, taken, "127.0.0.1"))[1]
            return False

        await until(scraped)


def figures() -> InstallationFigures:
    queue = QueueFigures("q", paused=False, queued=1, ready=1, processing=1, oldest_seconds=1.0, workers=1)
    return InstallationFigures(Figures([queue], 1, 1, 1.0, 0.5, 1.0, 1, [Lag("s", 3)]))


def exposed() -> dict[str, str]:
    """The type of each metric, by every name that a query can give it."""
    worker: Any = SimpleNamespace(running=(0, 1), held_characters=0)
    families: Iterable[Metric] = [*ProcessMetrics(worker=worker).collect(), *figures().collect()]
    return {family.name + suffix: family.type for family in families for suffix in SUFFIXES[family.type]}


def queried(expressions: Iterable[str]) -> set[str]:
    return {name for expression in expressions for name in re.findall(r"\b(?:treadle|process)_\w+", expression)}


def test_the_dashboard_and_the_alerts_query_metrics_that_exist() -> None:
    known = exposed().keys() | {"process_resident_memory_bytes"}
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = queried(target["expr"] for panel in panels for target in panel.get("targets", ()))
    alerts: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
    alerted = queried(alert["expr"] for alert in alerts)
    assert shown | alerted <= known
    assert len(shown) > 20
    assert {family.name for family in figures().collect()} <= shown | alerted
    assert "treadle_subscription_lag" in shown
    assert all(alert["annotations"].keys() == {"summary", "action"} for alert in alerts)


def test_the_page_lists_every_metric() -> None:
    page = DOCS / "metrics.md"
    listed = {**rows(section(page, "Of a process")), **rows(section(page, "Of the installation"))}
    written = {name.strip("`") for name in listed} - {"process_resident_memory_bytes"}
    assert written == {re.sub("_(bucket|sum|count)$", "", name) for name in exposed()}


def test_promtool_accepts_the_rules_and_the_dashboards_queries(tmp_path: Any) -> None:
    promtool = require_or_skip(shutil.which("promtool"), "promtool of Debian's package prometheus")
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    asked = [e.replace("$__rate_interval", "5m").replace("$queue", ".*") for e in expressions]
    recorded = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(asked)]
    queries = tmp_path / "queries.yml"
    queries.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    for command in (
        ["check", "rules", str(ALERTS), str(queries)],
        ["check", "config", str(ROOT / "deploy/prometheus/prometheus.yml")],
    ):
        checked = subprocess.run([promtool, *command], capture_output=True, text=True, check=False, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
