"""Completes the OpenAPI description of Litestar, so that generated clients compile and generated tests are right.

The models' schemas are msgspec's: Litestar's lack the constraints inside unions. A field that a request may leave out
has no `default`, because generators of types then take it for required; its description names the default.
"""

from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.routes import HTTPRoute

from service.access.principal import OPEN_SCOPE, SCOPES
from service.limits import MAX_KEY_CHARS, MAX_POSITION, MAX_THREAD_ID_CHARS
from service.refusals import MEDIA_TYPE, Problem

COMPONENT = "#/components/schemas/{name}"
VALUES = ("default", "enum", "examples", "required")  # keywords that hold values, not schemas
MAX_INT32 = 2**31 - 1
RETRY_AFTER_TEXT = (
    " The Retry-After header, where present, says after how many seconds the client may repeat the request."
)
ANY_PROBLEM = "Another problem (RFC 9457). With a status of 4xx nothing was written." + RETRY_AFTER_TEXT

# Why a request can be refused before its handler runs.
BAD_BODY = {
    "400": "The body is not JSON, or an id or a parameter is malformed.",
    "413": "The body is larger than MAX_BODY_BYTES.",
    "415": "The body has no Content-Type, or another one than application/json or application/...+json.",
    "422": "A value is not accepted, or a field or query parameter is unknown.",
}
BAD_PARAMETER = {
    "400": "An id, a cursor or a parameter is malformed.",
    "422": "A name in the path is not accepted, or a query parameter is unknown.",
}
UNKNOWN_QUERY = {"422": "A query parameter is unknown."}
NOT_ALLOWED = {
    "401": "AUTH is on, and the request has no key or token, or one that is not valid. With WWW-Authenticate.",
    "403": "The key or token lacks the scope of the operation, or does not allow the request.",
}
KEY, TOKEN = "key", "token"  # the security schemes
SECURITY_SCHEMES = {
    KEY: SecurityScheme(
        type="http",
        scheme="bearer",
        description="An API key, a JWT, or an access token of POST /tokens. Not needed where AUTH is off.",
    ),
    TOKEN: SecurityScheme(
        type="apiKey",
        name="token",
        security_scheme_in="query",
        description="The same in the address: for EventSource, which sends no headers.",
    ),
}
DATABASE_AWAY = {"503": "PostgreSQL cannot be reached, or is not migrated. With Retry-After."}
WITHOUT_DATABASE = frozenset(
    {"getLiveness", "getHealth", "getReadiness", "streamMessage", "streamThread", "streamTopic", "streamChanges"}
)

PARAMETERS: dict[str, dict[str, Any]] = {
    "message_id": {"type": "string", "format": "uuid", "examples": ["01a2009e-78fa-71a1-9dbb-0de0492c06e3"]},
    "thread_id": {"type": "string", "minLength": 1, "maxLength": MAX_THREAD_ID_CHARS, "examples": ["tour"]},
    "name": {"type": "string", "minLength": 1, "examples": ["default"]},
    "agent": {"type": "string", "minLength": 1, "examples": ["echo"]},
    "key_id": {"type": "string", "minLength": 1, "examples": ["4f2a91c07b3d"]},
    "webhook_id": {"type": "string", "minLength": 1, "examples": ["01983f6e-0000-7000-8000-000000000000"]},
    "tenant": {"type": "string", "minLength": 1, "examples": ["acme"]},
    "topic": {"type": "string", "minLength": 1, "examples": ["plan.in"]},
    "record_id": {"type": "string", "format": "uuid", "examples": ["01a2009e-78fa-71a1-9dbb-0de0492c06e3"]},
    "worker_id": {"type": "string", "minLength": 1, "examples": ["remote:8d5c2f0e-6a60-4a5b-9a53-0c1e6a1f2b11"]},
    "cursor": {"type": "string", "minLength": 1},
    "since": {"type": "string", "format": "date-time"},
    "until": {"type": "string", "format": "date-time"},
    "parent": {"type": "string", "format": "uuid"},
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
}


def complete(app: Litestar, *, needs_key: bool) -> dict[str, Any]:
    """Complete the description of the application in place, and return it as JSON values. `needs_key`: AUTH is on."""
    document = app.openapi_schema
    document.components.schemas = _components(app)
    options = {handler.operation_id: handler.opt for handler in _handlers(app)}
    for path in (document.paths or {}).values():
        for operation in (path.get, path.post, path.put, path.patch, path.delete):
            if operation is not None:
                _complete_operation(operation, options[operation.operation_id], needs_key)
    return document.to_schema()


def _complete_operation(operation: Operation, options: dict[str, Any], needs_key: bool) -> None:
    parameters = [parameter for parameter in operation.parameters or [] if isinstance(parameter, Parameter)]
    for parameter in parameters:
        _complete_parameter(parameter)
    responses = operation.responses = operation.responses or {}
    common = BAD_BODY if operation.request_body is not None else BAD_PARAMETER if parameters else UNKNOWN_QUERY
    if operation.operation_id not in WITHOUT_DATABASE:
        common = common | DATABASE_AWAY
    operation.security = _security(options, needs_key)
    if operation.security:
        common = common | NOT_ALLOWED
    described = {status: _problem(text) for status, text in common.items()}
    for status, response in described.items():
        if status == "400" or status not in responses:  # Litestar describes a 400 of its own
            responses[status] = response
    responses["default"] = _problem(ANY_PROBLEM)
    for answer in responses.values():
        for header in ((isinstance(answer, OpenAPIResponse) and answer.headers) or {}).values():
            if isinstance(header, OpenAPIHeader):
                header.schema = Schema(type=OpenAPIType.STRING)


def _security(options: dict[str, Any], needs_key: bool) -> list[dict[str, list[str]]]:
    """What an operation needs: one of these. The names behind a scheme are the scope of the operation."""
    scopes = [options["scope"]] if options["scope"] in SCOPES else []
    if options["scope"] == OPEN_SCOPE:
        return []
    found = [{KEY: scopes}, {TOKEN: scopes}] if options.get("is_stream") else [{KEY: scopes}]
    return found if needs_key else [*found, {}]  # {}: nothing, too


def _problem(text: str) -> OpenAPIResponse:
    reference = Reference(ref=COMPONENT.format(name=Problem.__name__))
    return OpenAPIResponse(description=text, content={MEDIA_TYPE: OpenAPIMediaType(schema=reference)})


def _complete_parameter(parameter: Parameter) -> None:
    """A parameter that may be left out is never null."""
    found: Any = parameter.schema.to_schema() if isinstance(parameter.schema, Schema) else {}
    alternatives = found.pop("oneOf", [{}])
    found |= next(alternative for alternative in alternatives if alternative.get("type") != "null")
    found |= PARAMETERS.get(parameter.name, {})
    found.pop("description", None)
    parameter.schema = _tidy(found)


def _components(app: Litestar) -> dict[str, Any]:
    handlers = _handlers(app)
    requests = _schemas([handler.parsed_data_field.annotation for handler in handlers if handler.parsed_data_field])
    responses = _schemas([Problem, *(_answer(handler) for handler in handlers)])
    for schema in requests.values():
        _name_defaults(schema)
    for schema in responses.values():
        schema["required"] = list(schema["properties"])  # every field is always sent
        for field in schema["properties"].values():
            field.pop("default", None)
    return {name: _tidy(schema) for name, schema in sorted((responses | requests).items())}


def _handlers(app: Litestar) -> list[HTTPRouteHandler]:
    """Those that the description shows."""
    return [
        handler
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.resolve_include_in_schema()
    ]


def _schemas(kinds: list[Any]) -> dict[str, Any]:
    return msgspec.json.schema_components([kind for kind in kinds if kind], ref_template=COMPONENT)[1]


def _answer(handler: HTTPRouteHandler) -> Any:
    """The type of the JSON that a handler answers; None where it answers none."""
    kind = handler.parsed_fn_signature.return_type.annotation
    if get_origin(kind) is Response:
        [kind] = get_args(kind)
    return None if kind is Any else kind


def _name_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        default = field.pop("default", None)
        if default is not None:
            field["description"] += f" (default: {msgspec.json.encode(default).decode()})"


def _tidy(schema: Any, name: str = "") -> Any:
    """A schema as generators of clients understand it; `name` is the field that it describes."""
    if isinstance(schema, list):
        return [_tidy(item, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy: dict[str, Any] = {key: _tidy(value, name) for key, value in schema.items() if key not in VALUES}
    tidy |= {key: schema[key] for key in VALUES if schema.get(key) is not None}
    if "properties" in schema:
        tidy["properties"] = {field: _tidy(value, field) for field, value in schema["properties"].items()}
    if {item.get("type") for item in tidy.get("anyOf", [])} == {"number", "integer"}:
        tidy = {"type": "number"}  # a whole number would be both
    if "enum" in tidy:
        tidy["type"] = "string"
    match tidy.get("type"):
        case "object" if "properties" not in tidy:
            tidy.setdefault("additionalProperties", True)
        case "string" if name.endswith("_at"):
            tidy["format"] = "date-time"
        case "number":
            tidy["format"] = "double"
        case "integer":
            for bound in {"minimum", "maximum"} & tidy.keys():
                tidy[bound] = int(tidy[bound])
            tidy["format"] = "int32" if tidy.get("maximum", MAX_POSITION) <= MAX_INT32 else "int64"
    return tidy
