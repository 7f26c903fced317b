"""JSON Schema: the reader is compatible if it accepts every value that the writer accepts.

The library jsonschema-rs answers that, from the canonical forms of both. What it cannot decide counts as incompatible:
changes inside a recursive type, for example.

The outcome agrees with the rules of Confluent's registry (docs.confluent.io, "JSON Schema compatibility rules"). So a
new optional property breaks the readers of an open model, whose old values may hold anything under that name, and a
removed one the readers whose model is closed. One rule goes beyond the sets of values, as there: the old values may
lack a required property for which the reader has a default.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec
from jsonschema_rs.canonical import CanonicalizationError, Containment, IncompatibleOperands, UnsupportedOperand

from service.schemas.json_schema import Document, Schema, registry

MAX_REASONS = 10
MAX_QUOTED_CHARS = 300  # of a schema in a reason

FAILURES = (CanonicalizationError, IncompatibleOperands, UnsupportedOperand, jsonschema_rs.ReferencingError)


def unreadable(reader: Document, writer: Document) -> list[str]:
    """Why the reader does not accept all values of the writer, each as `<place>: <reason>`; empty: it does."""
    reader = Document(_without_defaulted(reader.root), reader.others)
    return [] if _covers(reader, writer) else list(_reasons(reader, writer, "#"))[:MAX_REASONS]


def _covers(reader: Document, writer: Document) -> bool:
    try:
        return bool(_canonical(reader).covers(_canonical(writer)) == Containment.YES)
    except FAILURES:
        return False


def _canonical(document: Document) -> Any:
    return jsonschema_rs.canonicalize(
        document.root,
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(),  # linear in the length of the text
        registry=registry(document.others),
        offline=True,
    )


def _reasons(reader: Document, writer: Document, place: str) -> Iterator[str]:
    """The innermost properties and items that the reader may not accept; else what it loses as a whole."""
    ours, theirs = reader.resolved(), writer.resolved()
    r, w = _object(ours.root), _object(theirs.root)
    found = False
    for name, part in _object(r.get("properties")).items():
        other = _object(w.get("properties")).get(name, w.get("additionalProperties", True))
        if not _covers(ours.part(part), theirs.part(other)):
            found = True
            if name in _object(w.get("properties")):
                yield from _reasons(ours.part(part), theirs.part(other), f"{place}/properties/{name}")
            else:
                yield f"{place}/properties/{name}: is new, and the model of the values is open: it allows anything"
    for name in _object(w.get("properties")):
        if name not in _object(r.get("properties")) and r.get("additionalProperties") is False:
            found = True
            yield f"{place}/properties/{name}: is not accepted, because the model of the reader is closed"
    for name in r.get("required", ()):
        if name not in w.get("required", ()):
            found = True
            yield f"{place}/required: {name} is required, has no default, and may be missing"
    if "items" in r and "items" in w and not _covers(ours.part(r["items"]), theirs.part(w["items"])):
        found = True
        yield from _reasons(ours.part(r["items"]), theirs.part(w["items"]), f"{place}/items")
    if not found:
        yield f"{place}: {_lost(ours, theirs)}"


def _lost(reader: Document, writer: Document) -> str:
    try:
        lost = _canonical(writer).subtract(_canonical(reader)).to_json_schema()
    except FAILURES:
        return "the schemas cannot be compared"
    shown = msgspec.json.encode({key: value for key, value in lost.items() if key != "$schema"}).decode()
    return f"values like these may not be accepted: {shown[:MAX_QUOTED_CHARS]}"


def _without_defaulted(schema: Schema) -> Schema:
    """The schema, in which no property is required that has a default."""
    if isinstance(schema, list):
        return [_without_defaulted(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    adapted = {
        key: value if key in {"enum", "const", "default", "examples"} else _without_defaulted(value)
        for key, value in schema.items()
    }
    if isinstance(schema.get("required"), list):
        properties = _object(schema.get("properties"))
        adapted["required"] = [name for name in schema["required"] if "default" not in _object(properties.get(name))]
    return adapted


def _object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}
