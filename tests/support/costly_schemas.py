"""JSON Schemas that take hours to check."""

from typing import Any

from tests.support.schema_changes import INT


def doubling(levels: int) -> dict[str, Any]:
    """Its check visits a value 2 ** levels times."""
    steps = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**steps, f"d{levels}": INT}}


def nested_unevaluated(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {"a": INT}}
    for _ in range(levels):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


def unions(name: str) -> dict[str, Any]:
    """To compare it with another one of its kind takes all combinations of their parts."""
    return {"allOf": [{"anyOf": [{"properties": {f"{name}{i}{j}": INT}} for j in range(4)]} for i in range(16)]}


ARRAYS = {"type": "array", "items": {"$ref": "#"}}
RECURSIVE = {"anyOf": [INT, ARRAYS, {**ARRAYS, "minItems": 2}]}
DYNAMIC = {"$dynamicRef": "#/$defs/d0", "$defs": doubling(60)["$defs"]}
CHAIN = {"$ref": "#/$defs/0", "$defs": {**{str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(30_000)}}}
CHAIN["$defs"]["30000"] = INT  # type: ignore[index]
