"""The trace of a submit goes on in remote workers and in what they send. The API exports the spans of attempts."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.db.pool import Connection
from service.protocols.leases.otel import OtelRemoteTraces
from service.protocols.leases.traces import FindParents
from service.trace_ids import own_trace, span_of
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.remote_worker import RemoteWorker
from tests.support.waiting import until
from treadle import Context, RetryAfter, Worker, agent

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACE_PARENT = f"00-{TRACE}-{CALLER}-01"
OTHER_TRACE = f"00-{TRACE[::-1]}-{CALLER}-01"


async def submit(api: Client, agent: str, traceparent: str | None = TRACE_PARENT) -> str:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    answer = await api.post("/messages", json={"message": "x", "agent": agent}, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["message_id"])


def attempt_of(message: str, attempt: int, trace_id: str = TRACE) -> str:
    return f"00-{trace_id}-{span_of(UUID(message), attempt):016x}-01"


async def traceparents(sql: Connection) -> dict[str, str | None]:
    rows = await sql.fetch("select agent, traceparent from treadle.messages order by message_id")
    return {row["agent"]: row["traceparent"] for row in rows}


async def test_a_claim_tells_the_trace_of_the_submit(api: Client, sql: Connection) -> None:
    """What the worker sends belongs to the span that the header of the call names, if that is one of the trace."""
    remote = RemoteWorker(api)
    await remote.register("first", "second", "third")
    own = f"00-{TRACE}-{'1' * 16}-01"
    for traceparent, named, stored in ((TRACE_PARENT, own, own), (TRACE_PARENT, OTHER_TRACE, TRACE_PARENT)):
        message = await submit(api, "first", traceparent)
        [claimed] = await remote.claim()
        assert claimed["traceparent"] == traceparent
        sender = RemoteWorker(api, {"traceparent": named})
        sender.worker_id, sender.claimed = remote.worker_id, remote.claimed
        sends = [{"name": "next", "message": "y", "agent": "second"}]
        assert (await sender.finish(message, result="done", sends=sends)).status_code == 200
        assert (await traceparents(sql))["second"] == stored
        [child] = await remote.claim()
        assert child["traceparent"] == stored
        await remote.finish(child["message_id"], result="done")
    await submit(api, "third", None)
    [without] = await remote.claim()
    assert without["traceparent"] is None


async def test_the_api_exports_the_attempts_of_remote_workers(
    start_api: StartApi, sql: Connection, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    """With the ids that each claim has told, whichever API takes the end."""

    def make(find_parents: FindParents) -> OtelRemoteTraces:
        return OtelRemoteTraces(provider, find_parents)

    api, other = await start_api(make_traces=make), await start_api(make_traces=make)
    remote = RemoteWorker(api)
    await remote.register("shout")
    message = await submit(api, "shout")
    [claimed] = await remote.claim()
    assert claimed["traceparent"] == attempt_of(message, 1)
    await remote.finish(message, "retry", error="Again.", retry_after=0)
    elsewhere = RemoteWorker(other)
    await elsewhere.register("shout")
    await until(lambda: sql.fetchval("select treadle.admit_due()"), lambda answer: answer[0] == 1)
    await elsewhere.claim()
    assert elsewhere.claimed[message]["traceparent"] == attempt_of(message, 2)
    await elsewhere.finish(message, result="X")
    without = await submit(api, "shout", None)
    [claimed] = await remote.claim()
    assert claimed["traceparent"][:53] == attempt_of(without, 1, f"{own_trace(UUID(without)):032x}")[:53]
    await remote.finish(without, "failed", error="No.")
    await until(lambda: len(exporter.get_finished_spans()) == 8)  # both APIs are in this process and hear each end

    def facts(span: ReadableSpan) -> dict[str, Any]:
        return dict(span.attributes or {})

    spans = {
        (facts(span)["messaging.message.id"], span.name, facts(span)["treadle.attempt"]): span
        for span in exporter.get_finished_spans()
    }
    first, second = (spans[message, "invoke_agent shout", attempt] for attempt in (1, 2))
    last = spans[without, "invoke_agent shout", 1]
    for span in (first, second, spans[message, "wait in queue", 1]):
        assert span.context
        assert span.parent
        assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)
    assert [link.context.span_id for link in second.links] == [span_of(UUID(message), 1)]
    ends = [(facts(span)["treadle.outcome"], facts(span)["treadle.state"]) for span in (first, second, last)]
    assert ends == [("error", "queued"), ("completed", "completed"), ("rejected", "failed")]
    assert [span.status.is_ok for span in (first, second, last)] == [False, True, False]
    assert all(span.start_time and span.end_time and span.start_time <= span.end_time for span in spans.values())
    assert last.context
    assert (last.parent, last.context.trace_id) == (None, own_trace(UUID(without)))


@agent("planner")
async def planner(context: Context, text: str) -> str:
    with trace.get_tracer("program").start_as_current_span("think"):
        pass
    if context.attempt == 1:
        raise RetryAfter(0, "Not yet.")
    return await context.send("y", agent="clerk")


@agent("clerk")
def clerk(context: Any, text: str) -> str:
    with trace.get_tracer("program").start_as_current_span("write"):
        return text


async def test_the_spans_of_a_program_belong_to_its_attempts(
    start_api: StartApi,
    sql: Connection,
    exporter: InMemorySpanExporter,
    provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    api = await start_api(make_traces=lambda find_parents: OtelRemoteTraces(provider, find_parents))
    worker = Worker(planner, clerk, url=str(api.base_url))
    running = asyncio.create_task(worker.serve())
    await until(lambda: sql.fetchval("select count(*) = 2 from treadle.agents where agent in ('planner', 'clerk')"))
    message = await submit(api, "planner")
    over = "select count(*) = 2 and bool_and(state = 'completed') from treadle.messages, treadle.admit_due()"
    await until(lambda: sql.fetchval(over))
    await until(lambda: len(exporter.get_finished_spans()) == 8)
    worker.stop()
    await running
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {TRACE}
    child = await sql.fetchval("select message_id from treadle.messages where agent = 'clerk'")
    names = {span_of(UUID(message), 1): "planner 1", span_of(UUID(message), 2): "planner 2", span_of(child, 1): "clerk"}
    names[int(CALLER, 16)] = "caller"
    assert sorted((span.name, names[span.parent.span_id]) for span in spans if span.parent) == [
        ("invoke_agent clerk", "planner 2"),
        ("invoke_agent planner", "caller"),
        ("invoke_agent planner", "caller"),
        ("think", "planner 1"),
        ("think", "planner 2"),
        ("wait in queue", "caller"),
        ("wait in queue", "planner 2"),
        ("write", "clerk"),
    ]
