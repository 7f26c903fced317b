"""Structured output: the form in which the model must answer, and the answer read by it."""

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from service.agents.contract import Rejected

MAX_NAME_CHARS = 64  # the API's rule


class OutputForm:
    """`declared` is a type that msgspec can convert, such as a Struct, or a JSON Schema. Raises TypeError or ValueError
    for anything else."""

    def __init__(self, declared: Any) -> None:
        self._type = None if isinstance(declared, Mapping) else declared
        if self._type is None:
            import jsonschema_rs  # slow to import

            schema: Any = dict(declared)
            try:
                self._validator = jsonschema_rs.validator_for(schema)
            except ValueError as error:
                raise ValueError(f"output is no JSON Schema: {' '.join(str(error).split())}") from None
        else:
            try:
                (schema,), components = msgspec.json.schema_components([declared])
            except TypeError as error:
                raise TypeError(f"output: {error}") from None
            if reference := schema.get("$ref"):  # the API wants an object at the top
                schema = components[reference.rpartition("/")[2]]
            schema = {**schema, "$defs": components} if "$ref" in str(components) or "$ref" in str(schema) else schema
        if schema.get("type") != "object":
            raise ValueError("output must be an object: a Struct, or a JSON Schema of the type object")
        name = str(schema.get("title") or getattr(declared, "__name__", "") or "answer")
        name = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "_" for char in name)
        strict = _strict(schema)
        self.parameters: dict[str, Any] = {
            "type": "json_schema",
            "json_schema": {
                "name": name[:MAX_NAME_CHARS],
                "schema": schema if strict is None else strict,
                "strict": strict is not None,
                **({"description": doc} if self._type and (doc := inspect.getdoc(declared)) else {}),
            },
        }

    def read(self, text: str) -> Any:
        """The answer as JSON. Raises ValueError if it does not fit; another attempt may bring one that does."""
        try:
            if self._type is not None:
                return msgspec.to_builtins(msgspec.json.decode(text, type=self._type))
            answer = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"The model's answer does not fit its output: {error}.") from None
        if misfit := next(self._validator.iter_errors(answer), None):
            raise ValueError(f"The model's answer does not fit its output: {misfit.message}.")
        return answer


def form_of_client(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The form that a client of /v1 asks for: `response_format` of chat completions, or `text.format` of responses.
    Raises Rejected."""
    kept = metadata.get("openai")
    kept = kept if isinstance(kept, dict) else {}
    form = kept.get("response_format")
    if form is None and isinstance(kept.get("text"), dict):
        form = kept["text"].get("format")
    if form is None:
        return None
    if not isinstance(form, dict) or not isinstance(form.get("type"), str):
        raise Rejected("The format of the answer must be an object with a type.")
    if form["type"] == "text":
        return None
    if form["type"] == "json_schema" and "json_schema" not in form:
        return {"type": "json_schema", "json_schema": {name: part for name, part in form.items() if name != "type"}}
    return form


def _strict(schema: Any) -> Any:
    """The schema in the form that the API follows exactly: each field required, and no other. None if the schema has
    an object with fields of any name, which that form does not know."""
    if isinstance(schema, list):
        parts = [_strict(part) for part in schema]
        return None if any(part is None for part in parts) else parts
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            inner = {name: _strict(part) for name, part in value.items()}
            if any(part is None for part in inner.values()):
                return None
            found[key] = inner
        elif key in {"items", "anyOf", "prefixItems"}:
            if (part := _strict(value)) is None:
                return None
            found[key] = part
        elif key != "default":
            found[key] = value
    if found.get("type") == "object":
        if "properties" not in found or found.get("additionalProperties") not in (None, False):
            return None
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    return found
