"""Messages that do not fit the input type of their agent: refused at submit, with msgspec's own judgement."""

import datetime
import decimal
import enum
import json
import uuid
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from service.agents.definition import Agent
from service.db.pool import Connection
from service.inputs.validator import Validator, compile_schema
from tests.support.costly_schemas import CHAIN, DYNAMIC, RECURSIVE, doubling, nested_unevaluated
from tests.support.fixture_types import RegisterAgents, StartApi
from treadle import Context, Rejected, agent


class Item(Struct):
    count: Annotated[int, Meta(ge=1)]
    kind: Literal["a", "b"] = "a"


class Order(Struct, forbid_unknown_fields=True):
    number: int
    items: list[Item] = []
    note: Annotated[str, Meta(pattern="^(a+)+$")] | None = None
    due: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    price: decimal.Decimal = decimal.Decimal(0)
    tags: set[int] = set()
    key: uuid.UUID | None = None


class Leaf(Struct, tag=True):
    value: int


class Sum(Struct, tag=True):
    left: "Term"
    right: "Term"


class Product(Struct, tag=True):
    left: "Term"
    right: "Term"


Term: TypeAlias = Leaf | Sum | Product


def typed(input_type: Any) -> Agent:
    async def typed(context: Context, order: Any) -> str:
        return "fits"

    typed.__annotations__["order"] = input_type
    return agent("typed")(typed)


class Number(enum.IntEnum):
    ONE = 1
    NONE = 0


class Word(enum.Enum):
    A = "a"


class Many(Struct):
    """Of each kind what msgspec's own schema leaves open."""

    at: datetime.datetime = datetime.datetime(2026, 1, 1)
    zoned: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    local: Annotated[datetime.datetime, Meta(tz=False)] | None = None
    time: datetime.time = datetime.time(1)
    zoned_time: Annotated[datetime.time, Meta(tz=True)] | None = None
    local_time: Annotated[datetime.time, Meta(tz=False)] | None = None
    data: bytes = b""
    number: Number = Number.ONE
    one: Literal[1, "x"] = 1
    code: Annotated[str, Meta(pattern="^(?=a)")] = "a"
    by_int: dict[int, str] = {}
    by_uuid: dict[uuid.UUID, datetime.datetime] = {}
    by_date: dict[datetime.date, str] = {}
    by_time: dict[datetime.datetime, str] = {}
    by_word: dict[Word, str] = {}
    by_number: dict[Number, str] = {}
    by_literal: dict[Literal["x", 2], list[datetime.datetime]] = {}
    by_bytes: dict[bytes, str] = {}
    either: dict[int | datetime.date, str] = {}
    union: Leaf | Sum | list[datetime.time] | None = None
    pair: tuple[int, datetime.time] | None = None


MANY: list[tuple[str, list[Any], list[Any]]] = [  # a field, values that fit, and others
    ("at", ["2026-01-02T03:04:05", "2026-01-02T03:04:05+0100"], ["nonsense", "2026-01-02", 5]),
    ("zoned", ["2026-01-02T03:04:05z", "2026-01-02T03:04:05-01:00", None], ["2026-01-02T03:04:05", "Z"]),
    ("local", ["2026-01-02T03:04:05"], ["2026-01-02T03:04:05Z", "x"]),
    ("time", ["03:04:05", "03:04:05Z"], ["3", "x"]),
    ("zoned_time", ["03:04:05+01:00"], ["03:04:05"]),
    ("local_time", ["03:04:05"], ["03:04:05Z", "x"]),
    ("data", ["YQ==", ""], ["@@@", "YQ"]),
    ("number", [1], [1.0, 2, True, "1"]),
    ("one", [1, "x"], [1.0, "y"]),
    ("by_int", [{"1": "x", "-0": "", str(2**80): ""}, {}], [{"x": ""}, {"1.0": ""}, {"01": ""}, {"1": 1}]),
    ("by_uuid", [{str(uuid.UUID(int=1)): "2026-01-02T03:04:05"}], [{"1": ""}, {str(uuid.UUID(int=1)): "x"}]),
    ("by_date", [{"2026-01-02": "x"}], [{"2026": "x"}]),
    ("by_time", [{"2026-01-02T03:04:05": "x"}], [{"2026-01-02": "x"}]),
    ("by_word", [{"a": "x"}], [{"A": "x"}]),
    ("by_number", [{"1": "x", "-0": "y"}], [{"2": "x"}, {"ONE": "x"}]),
    ("by_literal", [{"x": [], "2": ["2026-01-02T03:04:05"]}], [{"y": []}, {"x": ["y"]}]),
    ("by_bytes", [{"YQ==": ""}], [{"@": ""}]),
    ("either", [{"1": "", "2026-01-02": ""}], [{"x": ""}]),
    ("union", [["03:04:05"], {"type": "Leaf", "value": 1}, None], [["x"], {"type": "Leaf", "value": "x"}]),
    ("pair", [[1, "03:04:05"]], [[1, "x"], [1]]),
]


@pytest.mark.parametrize(("field", "fitting", "others"), MANY)
def test_what_msgspec_refuses_is_refused_at_submit(field: str, fitting: list[Any], others: list[Any]) -> None:
    declared = typed(Many)
    made = compile_schema("typed", json.dumps(declared.input_schema))
    assert made is not None
    for value in fitting:
        declared.decode({field: value})
        assert made.misfit({field: value}) is None, value
    for value in others:
        with pytest.raises(Rejected):
            declared.decode({field: value})
        assert made.misfit({field: value}) is not None, value


def test_a_pattern_that_cannot_be_checked_leaves_the_rest_to_be_checked() -> None:
    made = compile_schema("typed", json.dumps(typed(Many).input_schema))
    assert made is not None
    assert made.misfit({"code": "b"}) is None  # the worker refuses it
    assert made.misfit({"code": 1}) is not None
    foreign = {"patternProperties": {"^(?=a)": {"type": "integer"}}, "additionalProperties": False, "required": ["a"]}
    made = compile_schema("foreign", json.dumps({"type": "object", **foreign}))
    assert made is not None
    assert made.misfit({"a": 1}) is None
    assert made.misfit({}) is not None


def validator(input_type: Any) -> Validator:
    made = compile_schema("typed", json.dumps(msgspec.json.schema(input_type)))
    assert made is not None
    return made


REFUSED = [
    ("text", "message does not fit the input of the agent 'typed': the value is not of type \"object\"."),
    ({}, "message does not fit the input of the agent 'typed': \"number\" is a required property."),
    (
        {"number": "1"},
        "message.number does not fit the input of the agent 'typed': the value is not of type \"integer\".",
    ),
    ({"number": 1.0}, "message.number does not fit the input of the agent 'typed': the value is not a whole number."),
    ({"number": 1, "more": 1}, None),
    ({"number": 1, "items": [{"count": 1}, {"count": 0}]}, None),
    ({"number": 1, "items": [{"count": 1, "kind": "c"}]}, None),
    ({"number": 1, "note": "b"}, None),
    ({"number": 1, "due": "tomorrow"}, None),
    ({"number": 1, "price": "much"}, None),
    ({"number": 1, "key": "1"}, None),
    ({"number": None}, None),
]


async def test_a_misfit_is_422(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection, subtests: pytest.Subtests
) -> None:
    await register_agents(typed(Order))
    api = await start_api()
    fits = {"message": {"number": 1}, "agent": "typed"}
    for message, said in REFUSED:
        with subtests.test(message=message):
            misfit = {"message": message, "agent": "typed"}
            alone = await api.post("/messages", json=misfit)
            assert alone.status_code == 422
            keyed = await api.post("/messages", json=misfit, headers={"Idempotency-Key": "k"})
            assert keyed.status_code == 422
            batch = await api.post("/messages/batch", json={"messages": [fits, misfit]})
            assert (batch.status_code, batch.json()["detail"]) == (422, f"messages[1]: {alone.json()['detail']}")
            if said is not None:
                assert alone.json()["detail"] == said
            assert await sql.fetchval("select count(*) from treadle.messages") == 0


@pytest.mark.parametrize(
    "message",
    [
        {"number": 2**80, "items": [{"count": 3, "kind": "b"}], "note": "aaa"},
        {"number": 1, "price": 1.5, "tags": [1, 1], "due": "2026-01-02 03:04:05Z", "key": uuid.uuid4().hex},
    ],
)
async def test_what_msgspec_takes_is_accepted(
    start_api: StartApi, register_agents: RegisterAgents, message: Any
) -> None:
    await register_agents(typed(Order))
    api = await start_api()
    assert (await api.post("/messages", json={"message": message, "agent": "typed"})).status_code == 202


async def test_a_changed_input_type_counts_at_once(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents(typed(Item))
    api = await start_api()
    assert (await api.post("/messages", json={"message": {"number": 1}, "agent": "typed"})).status_code == 422
    await register_agents(typed(Order))
    assert (await api.post("/messages", json={"message": {"number": 1}, "agent": "typed"})).status_code == 202


async def test_the_default_agents_input_is_checked(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents(typed(Item))
    await sql.execute("select treadle.register_agents('[]', 'typed')")
    api = await start_api()
    assert (await api.post("/messages", json={"message": {"count": 0}})).status_code == 422
    assert (await api.post("/messages", json={"message": {"count": 1}})).status_code == 202


def test_a_recursive_type_takes_no_exponential_time() -> None:
    message: dict[str, Any] = {"type": "Leaf", "value": "x"}
    for _ in range(60):
        message = {"type": "Sum", "left": message, "right": {"type": "Leaf", "value": 1}}
    terms = validator(Term)
    assert terms.misfit(message) is None  # below the first level the worker judges
    assert terms.misfit({"type": "Sum", "left": 1}) is not None
    assert terms.misfit({"type": "Leaf", "value": "x"}) is not None


def test_a_pattern_takes_linear_time() -> None:
    assert validator(Order).misfit({"number": 1, "note": "a" * 100_000 + "!"}) is not None


@pytest.mark.parametrize(
    "schema",
    [
        doubling(30),
        doubling(60),
        nested_unevaluated(30),
        DYNAMIC,
        CHAIN,
        RECURSIVE,
        {"$ref": "http://127.0.0.1:1/schema"},
        {"$defs": {str(n): {} for n in range(501)}},
    ],
)
def test_a_schema_that_may_take_long_is_left_to_the_worker(schema: Any) -> None:
    """A remote worker declares it, and must not hold the API."""
    assert compile_schema("remote", msgspec.json.encode(schema).decode()) is None


def test_references_are_followed_wherever_they_lead() -> None:
    schema = {
        "$id": "order",
        "type": "object",
        "properties": {"default": {"$ref": "#/definitions/n"}, "$ref": {"$ref": "#/properties/default"}},
        "definitions": {"n": {"type": "integer"}},
    }
    compiled = compile_schema("remote", msgspec.json.encode(schema).decode())
    assert compiled is not None
    assert compiled.misfit({"default": 1, "$ref": 1}) is None
    assert compiled.misfit({"$ref": "x"}) is not None


def test_a_schema_that_cannot_be_compiled_checks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert compile_schema("typed", '{"type": "nonsense"}') is None
    assert "an agent's input is not checked at submit" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ORDERS = st.fixed_dictionaries(
    {"number": JSON},
    optional={
        "items": st.lists(st.fixed_dictionaries({"count": JSON}, optional={"kind": st.sampled_from("abc")})) | JSON,
        "note": st.sampled_from(["a", "b", ""]) | JSON,
        "due": st.datetimes().map(str) | st.just("2026-01-02T03:04:05+01:00") | JSON,
        "price": st.decimals(allow_nan=False).map(str) | JSON,
        "tags": st.lists(st.integers()) | JSON,
        "key": st.uuids().map(str) | JSON,
    },
)
ORDER = validator(Order)


@given(ORDERS | JSON)
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_only_what_the_worker_rejects_is_refused(message: Any) -> None:
    if ORDER.misfit(message) is not None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(message, Order, str_keys=True)
