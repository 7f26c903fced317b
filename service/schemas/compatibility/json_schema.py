"""JSON Schema: the reader is compatible if it accepts every value that the writer accepts.

The library jsonschema-rs answers that, from the canonical forms of both. What it cannot decide counts as incompatible:
changes inside a recursive type, for example.

The outcome agrees with the rules of Confluent's registry (docs.confluent.io, "JSON Schema compatibility rules"). So a
new optional property breaks the readers of an open model, whose old values may hold anything under that name, and a
removed one the readers whose model is closed. One rule goes beyond the sets of values, as there: the old values may
lack a required property for which the reader has a default.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jsonschema_rs
import msgspec
from jsonschema_rs.canonical import CanonicalizationError, Containment, IncompatibleOperands, UnsupportedOperand

Schema: TypeAlias = Any  # an object, true or false
MAX_REASONS = 10
MAX_QUOTED_CHARS = 300  # of a schema in a reason
DEFINITIONS = ("$defs", "definitions", "$schema")

FAILURES = (CanonicalizationError, IncompatibleOperands, UnsupportedOperand, jsonschema_rs.ReferencingError)


class Document(msgspec.Struct, frozen=True):
    """A schema, and those to which it refers by name."""

    root: Schema
    others: dict[str, Schema] = {}

    def part(self, schema: Schema) -> "Document":
        """A part of the schema as a document, in which its references still lead to the definitions of the root."""
        if not isinstance(schema, dict) or not isinstance(self.root, dict):
            return Document(schema, self.others)
        return Document({**{key: self.root[key] for key in DEFINITIONS if key in self.root}, **schema}, self.others)

    def resolved(self) -> "Document":
        """The definition, where the document is only a reference to one of its own."""
        schema = self.root
        if not isinstance(schema, dict) or not str(schema.get("$ref", "")).startswith("#/"):
            return self
        for step in schema["$ref"].split("/")[1:]:
            schema = schema.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(schema, dict) else None
        return self if schema is None else self.part(schema)


def validate(document: Document) -> None:
    """Raises ValueError with one sentence for a value that is no JSON Schema, or whose references lead nowhere."""
    try:
        jsonschema_rs.meta.validate(document.root)
        jsonschema_rs.validator_for(document.root, registry=_registry(document.others), offline=True)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        place = "/".join(str(step) for step in getattr(error, "instance_path", ()))
        reason = str(getattr(error, "message", error)).partition("\n")[0].rstrip(".")
        raise ValueError(f"#/{place}: {reason}." if place else f"{reason}.") from None


def checker(document: Document) -> Callable[[Any], tuple[str, str] | None]:
    """Says of a value where it does not fit (a JSON pointer) and why. Raises ValueError for a schema that has a pattern
    which takes more than linear time."""
    validator = jsonschema_rs.validator_for(
        document.root,
        registry=_registry(document.others),
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(),
        mask="the value",
        offline=True,
    )

    def check(value: Any) -> tuple[str, str] | None:
        if validator.is_valid(value):
            return None
        error = next(validator.iter_errors(value))
        steps = (str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path)
        return "".join(f"/{step}" for step in steps), error.message

    return check


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
        registry=_registry(document.others),
        offline=True,
    )


def _registry(others: Mapping[str, Schema]) -> Any:
    return jsonschema_rs.Registry(list(others.items())) if others else None


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
