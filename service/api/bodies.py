"""Request bodies: JSON, decoded once and strictly, straight into the type that the handler declares.

What does not fit is refused with the field's description (from the type; OpenAPI shows it, too) as the end of the
sentence "<field> must be ...".
"""

import re
from typing import Any

import msgspec
from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException

from service.errors import Invalid, Unprocessable

MAX_DEPTH = 100  # of nested arrays and objects: whoever reads the body later recurses as deep

_TOO_DEEP = f"The body is nested too deeply: at most {MAX_DEPTH} levels are allowed."
_JSON = re.compile(r"application/([\w.-]+\+)?json", re.IGNORECASE)
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


class JsonBody(AbstractDTO[Any]):
    """The application's way to read bodies. Litestar's own decodes into dicts and then converts: to it "1" is a
    number."""

    @classmethod
    def create_for_field_definition(cls, *_args: Any, **_kwargs: Any) -> None:
        """There is nothing to prepare for a handler."""

    @classmethod
    def create_openapi_schema(cls, field_definition: Any, handler_id: str, schema_creator: Any) -> Any:
        return schema_creator.for_field_definition(field_definition)

    def decode_bytes(self, value: bytes) -> Any:
        """Raises Invalid for what is not JSON, Unprocessable for what does not fit the type."""
        content_type = self.asgi_connection.headers.get("content-type", "application/json")
        if not _JSON.fullmatch(content_type.partition(";")[0].strip()):
            raise HTTPException(status_code=415, detail=f"The body must be application/json, not {content_type[:100]}.")
        field = self.asgi_connection.route_handler.parsed_data_field
        assert field is not None
        try:
            body = msgspec.json.decode(value, type=field.annotation)
        except msgspec.ValidationError as error:
            raise Unprocessable(_misfit(str(error), field.annotation)) from None
        except UnicodeDecodeError:
            raise Invalid("The body is not valid JSON: it is not in UTF-8.") from None
        except msgspec.DecodeError as error:
            raise Invalid(_malformed(str(error))) from None
        except RecursionError:
            raise Unprocessable(_TOO_DEEP) from None
        brackets = value.count(b"{") + value.count(b"[")
        if brackets > MAX_DEPTH and _deeper(body, MAX_DEPTH):
            raise Unprocessable(_TOO_DEEP)
        return body


def _misfit(error: str, kind: Any) -> str:
    """msgspec's `<reason> - at `$.<place>`` as a sentence."""
    found = _PLACE.search(error)
    reason, place = (error[: found.start()], found[1]) if found else (error, "")
    inside = f" of {place}" if place else ""
    if name := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return f"{name[1]}{inside} is missing."
    if name := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        return f"{name[1]!r}{inside} is not a field that is known here."
    if "out of range" in reason:
        return f"{place} holds a number that is out of range."
    field = re.sub(r"\[\d+\]", "", place).rpartition(".")[2]
    expected = "an object" if place.endswith("]") else _descriptions(kind).get(field, "an object")
    return f"{place or 'The body'} must be {expected}."


def _descriptions(kind: Any) -> dict[str, str]:
    """The descriptions of all fields of a type and those inside it, by the field's name."""
    _, components = msgspec.json.schema_components([kind])
    fields = [item for component in components.values() for item in component.get("properties", {}).items()]
    return {name: schema["description"] for name, schema in fields if "description" in schema}


def _malformed(error: str) -> str:
    if error == "Input data was truncated":
        return "The body is not valid JSON: it ends too early, or a text in it with half a surrogate pair."
    return f"The body is not valid JSON: {error.removeprefix('JSON is malformed: ')}."


def _deeper(value: Any, levels: int) -> bool:
    """Whether arrays and objects are nested in each other more than `levels` deep."""
    if isinstance(value, msgspec.Struct):
        inside = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list):
        inside = value
    else:
        return False
    return levels == 0 or any(_deeper(item, levels - 1) for item in inside)
