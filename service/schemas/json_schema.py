"""JSON Schemas as the library jsonschema-rs reads them. Some take it hours, so only child processes call this."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jsonschema_rs
import msgspec

from service.schemas.model import Source

Schema: TypeAlias = Any  # an object, true or false
DEFINITIONS = ("$defs", "definitions", "$schema")


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
        jsonschema_rs.validator_for(document.root, registry=registry(document.others), offline=True)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        place = "/".join(str(step) for step in getattr(error, "instance_path", ()))
        reason = str(getattr(error, "message", error)).partition("\n")[0].rstrip(".")
        raise ValueError(f"#/{place}: {reason}." if place else f"{reason}.") from None


def checker(document: Document) -> Callable[[Any], tuple[str, str] | None]:
    """Says of a value where it does not fit (a JSON pointer) and why. Raises ValueError for a schema that has a pattern
    which takes more than linear time."""
    validator = jsonschema_rs.validator_for(
        document.root,
        registry=registry(document.others),
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


def parse(source: Source) -> Document:
    return Document(msgspec.json.decode(source.content), parse_all(source.imports))


def parse_all(texts: Mapping[str, bytes]) -> dict[str, Schema]:
    return {name: msgspec.json.decode(text) for name, text in texts.items()}


def registry(others: Mapping[str, Schema]) -> Any:
    """The schemas to which another one refers, for the library."""
    return jsonschema_rs.Registry(list(others.items())) if others else None
