"""Errors in the dialect: {"error_code", "message"}. Codes of five digits begin with the HTTP status."""

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from service.errors import UNEXPECTED_DETAIL, Refused, SchemaError, Unauthorized, Unavailable, Unprocessable
from service.protocols.schema_registry.model import Error
from service.refusals import Plain
from service.schemas import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
CHALLENGE = 'Basic realm="treadle", Bearer realm="treadle"'


class InvalidVersion(Unprocessable):
    """It is neither a number nor `latest`."""


class InvalidLevel(Unprocessable):
    """There is no such compatibility."""


class InvalidMode(Unprocessable):
    """There is no such mode here."""


class InvalidSubject(Unprocessable):
    """It is no name of a subject."""


class NoOwnLevel(errors.NoOwnRule):
    """The subject has no compatibility of its own."""


class NoOwnMode(errors.NoOwnRule):
    """The subject has no mode of its own."""


CODES: dict[type[Refused], int] = {
    errors.UnknownSubject: 40401,
    errors.UnknownVersion: 40402,
    errors.UnknownSchema: 40403,
    errors.SubjectDeleted: 40404,
    errors.SubjectNotDeleted: 40405,
    errors.VersionDeleted: 40406,
    errors.VersionNotDeleted: 40407,
    NoOwnLevel: 40408,
    NoOwnMode: 40409,
    errors.IncompatibleSchema: 40901,
    errors.InvalidSchema: 42201,
    InvalidVersion: 42202,
    InvalidLevel: 42203,
    InvalidMode: 42204,
    errors.ReadOnlySubject: 42205,
    errors.ReferenceExists: 42206,
    InvalidSubject: 42208,
}


def plain(status: int, detail: str) -> Plain:
    """A refusal that no route makes."""
    return Plain(Error(status, detail), MEDIA_TYPE)


def _own_error(_: Request[Any, Any, Any], error: Refused | Unavailable | SchemaError) -> Response[Error]:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), error.status)
    return _respond(error.status, code, str(error), headers)


def _litestar_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Error]:
    return _respond(error.status_code, error.status_code, str(error.detail), dict(error.headers or {}))


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Error]:
    log.error("unexpected error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return _respond(500, 500, UNEXPECTED_DETAIL, {})


def _respond(status: int, code: int, message: str, headers: dict[str, str]) -> Response[Error]:
    return Response(Error(code, message), status_code=status, media_type=MEDIA_TYPE, headers=headers)


HANDLERS: ExceptionHandlersMap = {
    Refused: _own_error,
    Unavailable: _own_error,
    SchemaError: _own_error,
    HTTPException: _litestar_error,
    Exception: _unexpected_error,
}
