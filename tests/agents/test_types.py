"""Types of agents: Structs and Protobuf classes as inputs and results, their forms, and readers of other versions."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.db.pool import Connection
from service.schemas.compatibility.json_schema import unreadable
from service.schemas.json_schema import Document
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import settled
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip
from tests.support.websocket_client import chat_url, open_socket
from treadle import Context, agent
from treadle.types import TYPES, Types
from treadle.v1 import BuildStatus, ChangeRequest, CodingTask, ComplexityLevel, Plan, PlanStep, StepKind


class Order(msgspec.Struct):
    number: int
    note: str = ""
    plan: Plan | None = None


class NewOrder(Order):
    """The next version of Order."""

    urgent: bool = False


@agent("split")
async def split(context: Context, plan: Plan) -> list[CodingTask]:
    """One task for each step."""

    async def first() -> PlanStep:
        return plan.steps[0]

    step = await context.step("first", first)
    return [CodingTask(task_id=step.step_id, plan_id=plan.plan_id, paths=plan.affected_paths)]


async def test_protobuf_messages_are_input_and_result(
    start_worker: StartWorker, start_api: StartApi, sql: Connection
) -> None:
    """They are stored as their canonical JSON. A message that does not fit is refused before it is stored."""
    await start_worker(split)
    api = await start_api()
    plan = {"planId": "p", "steps": [{"step_id": "one", "kind": "STEP_KIND_TEST"}], "affectedPaths": ["a.py"]}
    message_id = await api.submit(plan, agent="split")
    row = await settled(sql, UUID(message_id))
    assert (row["state"], row["result"]) == ("completed", [{"taskId": "one", "planId": "p", "paths": ["a.py"]}])
    plan["steps"][0]["kind"] = "STEP_KIND_DANCE"  # type: ignore[index]
    refused = await api.post("/messages", json={"message": plan, "agent": "split"})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/steps/0/kind")
    both = [{"message": {}, "agent": "split"}, {"message": {"createdAt": "soon"}, "agent": "split"}]
    refused = await api.post("/messages/batch", json={"messages": both})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/createdAt")
    assert refused.json()["detail"].startswith("messages[1]: message.createdAt does not fit the input")
    async with open_socket(chat_url(api, "t")) as chat:
        await chat.send("user_input", message=plan, agent="split")
        assert "message.steps[0].kind does not fit" in (await chat.find(type="error"))["detail"]
    assert await sql.fetchval("select count(*) from treadle.messages") == 1


async def test_a_reader_of_version_1_reads_version_2(start_worker: StartWorker, sql: Connection) -> None:
    """That is what FORWARD promises: fields that the reader does not know are passed over."""
    old, new = (Document(msgspec.json.schema(each, schema_hook=_any)) for each in (Order, NewOrder))
    assert unreadable(old, new) == []

    @agent("order")
    async def order(context: Context, given: Order) -> list[Any]:
        assert given.plan is not None
        return [given.number, given.plan.plan_id]

    await start_worker(order)
    text = TYPES.write_json(NewOrder(1, plan=Plan(plan_id="p"), urgent=True)).replace("planId", 'lines":[1],"planId')
    message_id = await sql.fetchval("select treadle.submit($1::jsonb, agent => 'order')", text)
    assert (await settled(sql, message_id))["result"] == [1, "p"]


def _any(declared: Any) -> dict[str, Any]:
    return {"type": "object"}


# Forms

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
PLANS = st.builds(
    Plan,
    plan_id=TEXTS,
    steps=st.lists(st.builds(PlanStep, step_id=TEXTS, kind=st.sampled_from(StepKind.values())), max_size=3),
    affected_paths=st.lists(TEXTS, max_size=3),
    complexity=st.sampled_from(ComplexityLevel.values()),
    created_at=TIMES,
)
ORDERS = st.builds(Order, number=st.integers(-(2**53), 2**53), note=TEXTS, plan=st.none() | PLANS)


@given(ORDERS | PLANS)
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_value_survives_each_form(value: Any) -> None:
    types = Types()
    types.add(Order)
    types.add(Plan)
    name = types.name_of(value)
    assert name == ("treadle.v1.Plan" if isinstance(value, Plan) else "Order")
    assert types.read_json(name, types.write_json(value)) == value
    assert types.read_binary(name, types.write_binary(value)) == value
    assert types.read_base64(name, types.write_base64(value)) == value


def test_names_lead_to_types() -> None:
    assert TYPES.get("treadle.v1.ChangeRequest") is ChangeRequest
    assert "treadle.v1.Plan" in TYPES.names
    types = Types()
    assert types.add(Order) is types.add(Order) is Order
    with pytest.raises(ValueError, match="belongs to another type"):
        types.add(Plan, "Order")
    with pytest.raises(LookupError, match="there is no type 'Other'"):
        types.get("Other")
    with pytest.raises(LookupError, match="has no name"):
        types.name_of(Plan())
    types.add(Plan)
    wrong_forms: tuple[tuple[Any, Any], ...] = (
        (types.read_json, '{"planId": 1}'),
        (types.read_binary, b"\xff"),
        (types.read_base64, "?"),
    )
    for read, wrong in wrong_forms:
        with pytest.raises(ValueError, match=r"."):
            read("treadle.v1.Plan", wrong)
    assert BuildStatus.Name(1) == "BUILD_STATUS_SUCCEEDED"


# The package


def test_without_protobuf_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['google.protobuf'] = None; import treadle, treadle.types; import treadle.v1"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ImportError: treadle.v1 needs Protobuf: run pip install 'treadle[protobuf]'" in run.stderr


def test_the_generated_code_is_that_of_the_proto_files(tmp_path: Path) -> None:
    """`make proto` renews it."""
    python = ROOT / ".tools/python/bin/python"
    found = python.exists() and not subprocess.run([python, "-c", "import grpc_tools"], check=False).returncode
    protoc = require_or_skip(python if found else None, "protoc: make tools")
    for file in ROOT.glob("proto/treadle/v1/*.proto"):
        shutil.copytree(ROOT / "proto", tmp_path / "proto", dirs_exist_ok=True)
        arguments = ("-I", "proto", "--python_out=.", "--pyi_out=.", str(file.relative_to(ROOT)))
        subprocess.run([protoc, "-m", "grpc_tools.protoc", *arguments], cwd=tmp_path, env=dict(os.environ), check=True)
    made = {path.name: path.read_text() for path in tmp_path.glob("treadle/v1/*")}
    committed = {path.name: path.read_text() for path in ROOT.glob("treadle/v1/*_pb2.py*")}
    assert made == committed
    assert len(made) == 6
