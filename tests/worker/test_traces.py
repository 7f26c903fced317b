"""One trace from the traceparent of a request through the wait, the attempts, the steps and the messages sent."""

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.agents.claude.api import Api
from service.agents.registry import Registry
from service.cli import run
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection
from service.errors import ConfigError, Unavailable
from service.leases.store import LeaseStore
from service.worker.isolation.parent import Isolation
from service.worker.otel import OtelTraces
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.fake_anthropic import FakeAnthropic
from tests.support.fixture_types import StartApi
from tests.support.hook_receiver import HookReceiver
from tests.support.isolated_agents import apart
from tests.support.messages import settled, submit
from tests.support.remote_worker import RemoteWorker
from tests.support.waiting import until
from treadle import Context, RetryAfter, agent
from treadle.adapters import claude_agent

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACE_PARENT = f"00-{TRACE}-{CALLER}-01"


@agent("planner", max_attempts=3)
async def planner(context: Context, text: str) -> str:
    await context.step("look up", lambda: 1)
    if context.attempt == 1:
        raise RetryAfter(0.01, "Not yet.")
    await context.event("tool", {"id": "call-1", "name": "search", "input": "x"})
    await context.event("tool", {"id": "call-1", "name": "search", "output": "x", "failed": True})
    await context.event("tool", {"id": "call-2", "name": "search", "output": "of no call"})
    with trace.get_tracer("library").start_as_current_span("model call"):
        return await context.send("hello", agent="clerk")


@agent("clerk")
def clerk(context: Any, text: str) -> Any:
    return context.send("hello", agent="helper")


@agent("helper")
async def helper(context: Context, text: str) -> str:
    return text


def names_of_parents(spans: tuple[ReadableSpan, ...]) -> list[tuple[str, str]]:
    """Each span with its parent's name, sorted."""
    names = {format(span.context.span_id, "016x"): span.name for span in spans if span.context}
    names[CALLER] = "caller"

    def parent(span: ReadableSpan) -> str:
        return "" if span.parent is None else names.get(format(span.parent.span_id, "016x"), "?")

    return sorted((span.name, parent(span)) for span in spans)


async def test_a_trace_goes_on_through_attempts_steps_and_children(
    settings: Settings,
    start_api: StartApi,
    sql: Connection,
    exporter: InMemorySpanExporter,
    provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)  # of instrumented libraries
    made: list[OtelTraces] = []

    def make(leases: LeaseStore) -> OtelTraces:
        made.append(OtelTraces(provider, leases.trace_parents))
        return made[0]

    worker = build_worker(
        settings, str(settings.database_url), Registry(settings, (planner, clerk, helper)), make_traces=make
    )
    with made[0].listening():
        running = asyncio.create_task(worker.run())
        await until(lambda: worker.ready or running.done())
        api = await start_api()
        answer = await api.post(
            "/messages", json={"message": "x", "agent": "planner"}, headers={"traceparent": TRACE_PARENT}
        )
        child = (await api.settled(answer.json()["message_id"]))["result"]
        grandchild = (await api.settled(child))["result"]
        await api.settled(grandchild)
        # The worker hears of the end perhaps later than the client.
        spans = await until(exporter.get_finished_spans, lambda ended: len(ended) >= 10)
        exporter.clear()
        malformed = await api.post(
            "/messages", json={"message": "x", "agent": "helper"}, headers={"traceparent": "00-1"}
        )
        await api.settled(malformed.json()["message_id"])
        own = await until(exporter.get_finished_spans, lambda ended: len(ended) >= 2)
        worker.stop()
        await running

    def facts(span: ReadableSpan) -> dict[str, Any]:
        return dict(span.attributes or {})

    assert {format(span.context.trace_id, "032x") for span in spans if span.context} == {TRACE}
    [tool] = [span for span in spans if span.name == "execute_tool search"]
    assert (facts(tool)["gen_ai.tool.call.id"], tool.status.is_ok) == ("call-1", False)
    assert names_of_parents(spans) == [
        ("execute_tool search", "invoke_agent planner"),
        ("invoke_agent clerk", "invoke_agent planner"),
        ("invoke_agent helper", "invoke_agent clerk"),
        ("invoke_agent planner", "caller"),
        ("invoke_agent planner", "caller"),
        ("model call", "invoke_agent planner"),
        ("step look up", "invoke_agent planner"),
        ("wait in queue", "caller"),
        ("wait in queue", "invoke_agent clerk"),
        ("wait in queue", "invoke_agent planner"),
    ]
    first, second = sorted(
        (span for span in spans if span.name == "invoke_agent planner"), key=lambda span: facts(span)["treadle.attempt"]
    )
    assert (facts(first)["treadle.outcome"], facts(second)["treadle.state"]) == ("error", "completed")
    assert [link.context.span_id for link in second.links] == [first.context.span_id if first.context else None]
    assert "x" not in {str(value) for span in spans for value in facts(span).values()}
    [own_trace] = {span.context.trace_id for span in own if span.context}
    assert format(own_trace, "032x") != TRACE
    assert await sql.fetchval("select count(*) from treadle.messages where traceparent is not null") == 3


async def test_a_message_without_a_request_has_a_trace_of_its_own(
    settings: Settings, sql: Connection, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    """Also where the lookup fails: a trace is not worth an attempt."""

    async def fail(_: Any) -> dict[Any, str]:
        raise Unavailable("PostgreSQL is away.")

    traces = OtelTraces(provider, fail)
    worker = build_worker(
        settings, str(settings.database_url), Registry(settings, (helper,)), make_traces=lambda _: traces
    )
    with traces.listening():
        running = asyncio.create_task(worker.run())
        await until(lambda: worker.ready or running.done())
        await settled(sql, await submit(sql, "x", agent="helper"))
        await until(lambda: len(exporter.get_finished_spans()) == 2)
        worker.stop()
        await running
    assert names_of_parents(exporter.get_finished_spans()) == [("invoke_agent helper", ""), ("wait in queue", "")]


async def test_one_trace_from_a_browsers_post_as_a_tree(
    settings: Settings,
    start_api: StartApi,
    sql: Connection,
    exporter: InMemorySpanExporter,
    provider: TracerProvider,
) -> None:
    """Through a planner, its step, the model that its child calls, a child in a process of its own, what both send and
    publish, a subscription's agent, and the webhook that is told of the end."""

    @agent("planner")
    async def planner(context: Context, text: str) -> str:
        await context.step("look up", lambda: 1)
        children = [await context.send(f"{text} {n}", agent=name) for n, name in enumerate(("coder", "coder", "apart"))]
        await context.gather(*children)
        await context.publish("plans", text)
        return text

    @agent("reviewer", topics=["plans"])
    async def reviewer(context: Context, text: str) -> None:
        pass

    made: list[OtelTraces] = []

    def make(leases: LeaseStore) -> OtelTraces:
        made.append(OtelTraces(provider, leases.trace_parents))
        return made[0]

    webhooks: dict[str, Any] = {"webhook_networks": ("127.0.0.0/8",), "webhook_http": True}
    api = await start_api(cors_origins=("https://app.example",), **webhooks)
    assert (await api.put("/topics/plans", json={})).status_code == 201
    own = msgspec.structs.replace(
        settings, agents=("tests.support.isolated_agents",), webhook_concurrency=5, **webhooks
    )
    async with FakeAnthropic().running() as fake, HookReceiver().running() as receiver:
        hook = {"url": f"{receiver.origin}/hook", "agents": ["planner"]}
        assert (await api.post("/webhooks", json=hook)).status_code == 201
        coder = claude_agent("coder").connect(Api("sk-test", fake.url, "claude-test"))
        registry = Registry(own, (planner, reviewer, coder, helper, apart))
        worker = build_worker(own, str(settings.database_url), registry, make_traces=make, isolation=Isolation(own))
        with made[0].listening():
            running = asyncio.create_task(worker.run())
            await until(lambda: sql.fetchval("select count(*) from treadle.subscriptions"))
            page = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site", "traceparent": TRACE_PARENT}
            accepted = await api.post("/messages", json={"message": "x", "agent": "planner"}, headers=page)
            assert accepted.status_code == 202
            done = "select count(*) from treadle.messages where state = 'completed'"
            await until(lambda: sql.fetchval(done), lambda count: count == 7)
            worker.stop()
            await running
        [told] = receiver.at("/hook")
    spans = exporter.get_finished_spans()
    assert {format(span.context.trace_id, "032x") for span in spans if span.context} == {TRACE}
    shown = as_tree(spans)
    print(shown)
    assert shown == TREE
    [delivery] = [span for span in spans if span.name == "deliver webhook"]
    assert delivery.context
    assert told.headers["traceparent"] == f"00-{TRACE}-{delivery.context.span_id:016x}-01"
    calls = [dict(span.attributes or {}) for span in spans if span.name == "chat claude-test"]
    assert [call["gen_ai.usage.output_tokens"] for call in calls if "gen_ai.response.model" in call] == [22, 22]
    [first, second] = [span for span in spans if span.name == "invoke_agent planner"]  # parked, and then on
    assert [link.context.span_id for link in second.links] == [first.context.span_id if first.context else None]


TREE = """\
caller
  deliver webhook
  invoke_agent planner
    invoke_agent apart
      chat claude-test
      invoke_agent helper
      step look up
      wait in queue
    invoke_agent coder
      chat claude-test
    invoke_agent coder
      chat claude-test
    step look up
    wait in queue
    wait in queue
    wait in queue
  invoke_agent planner
    invoke_agent reviewer
    publish plans
    wait in queue
  wait in queue
  wait in queue
"""


def as_tree(spans: Sequence[ReadableSpan]) -> str:
    """The spans below the caller's, each level sorted by name."""
    below: dict[int, list[ReadableSpan]] = {}
    for span in spans:
        below.setdefault(span.parent.span_id if span.parent else 0, []).append(span)

    def lines(id: int, name: str, depth: int) -> list[str]:
        inner = [lines(span.context.span_id, span.name, depth + 1) for span in below.get(id, ()) if span.context]
        return [f"{'  ' * depth}{name}\n", *(line for each in sorted(inner) for line in each)]

    return "".join(lines(int(CALLER, 16), "caller", 0))


async def test_workers_and_apis_export_by_otlp(
    settings: Settings, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the commands do where the endpoint is set. The last spans are sent when a process ends."""
    async with HookReceiver().running() as receiver:
        threads = ThreadPoolExecutor(1)  # a worker that stops shuts the loop's own
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.origin)
        with ExitStack() as ends:
            make = ends.enter_context(run.tracing())
            worker = build_worker(settings, str(settings.database_url), Registry(settings, (helper,)), make_traces=make)
            running = asyncio.create_task(worker.run())
            await until(lambda: worker.ready or running.done())
            await settled(sql, await submit(sql, "x", agent="helper"))
            worker.stop()
            await running
            await asyncio.get_running_loop().run_in_executor(threads, ends.pop_all().close)
        with ExitStack() as ends:
            make_remote = ends.enter_context(run.tracing_remote())
            async with api_server(settings, make_traces=make_remote) as server, Client(server.url) as api:
                remote = RemoteWorker(api)
                await remote.register("shout")
                message = await api.submit("x", agent="shout")
                await remote.claim()
                await remote.finish(message, result="X")
            await asyncio.get_running_loop().run_in_executor(threads, ends.pop_all().close)
    sent = [ExportTraceServiceRequest.FromString(post.body) for post in receiver.at("/v1/traces")]
    assert sorted(
        (fact.value.string_value, span.name)
        for request in sent
        for each in request.resource_spans
        for fact in each.resource.attributes
        if fact.key == "service.name"
        for of_scope in each.scope_spans
        for span in of_scope.spans
    ) == [
        ("treadle-api", "invoke_agent shout"),
        ("treadle-api", "wait in queue"),
        ("treadle-worker", "invoke_agent helper"),
        ("treadle-worker", "wait in queue"),
    ]


def test_an_api_without_the_extra_starts_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "service.spans", None)
    with run.tracing_remote() as make:
        assert make is None
    assert "traces need the extra otel" in caplog.text
    with pytest.raises(ConfigError, match="traces need the extra otel"), run.tracing():
        pass
