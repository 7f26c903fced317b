"""/schema-registry: subjects, versions, schemas by id, and whether a subject allows one."""

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from litestar import Router
from litestar.di import Provide
from litestar.params import FromPath, JSONBody

from service.protocols.schema_registry import rules
from service.protocols.schema_registry.calls import AnyRequest, Caller, Schemas, caller_of, delete, get, post
from service.protocols.schema_registry.errors import HANDLERS
from service.protocols.schema_registry.model import (
    Compatibility,
    RegisteredAnswer,
    SchemaAnswer,
    SchemaRequest,
    SubjectVersion,
)
from service.protocols.schema_registry.paths import parse_subject, parse_version
from service.protocols.schema_registry.translate import answer, bounds, flag, new_schema, page
from service.schemas.errors import UnknownSchema
from service.schemas.model import KINDS
from service.schemas.store import MAX_LISTED

MAX_ID_DIGITS = 9


# Subjects and versions


@get("/", scope="read")
async def get_root() -> dict[str, Any]:
    return {}


@get("/subjects", scope="read")
async def list_subjects(request: AnyRequest, caller: Caller, schemas: Schemas) -> list[str]:
    only_deleted = flag(request, "deleted_only", "deletedOnly")
    offset, limit = bounds(request)
    return await schemas.store.subjects(
        caller,
        request.query_params.get("subjectPrefix", ""),
        deleted=flag(request, "deleted"),
        only_deleted=only_deleted,
        offset=offset,
        limit=MAX_LISTED if limit is None else limit,
    )


@post("/subjects/{subject:str}", scope="read")
async def look_up_schema(
    request: AnyRequest, subject: FromPath[str], data: JSONBody[SchemaRequest], caller: Caller, schemas: Schemas
) -> SchemaAnswer:
    found = await schemas.look_up(caller, parse_subject(subject), new_schema(data), deleted=flag(request, "deleted"))
    return answer(found, format=request.query_params.get("format"))


@delete("/subjects/{subject:str}", scope="operate")
async def delete_subject(
    request: AnyRequest, subject: FromPath[str], caller: Caller, schemas: Schemas
) -> Sequence[int]:
    return await schemas.delete(caller, parse_subject(subject), permanent=flag(request, "permanent"))


@get("/subjects/{subject:str}/versions", scope="read")
async def list_versions(request: AnyRequest, subject: FromPath[str], caller: Caller, schemas: Schemas) -> list[int]:
    only_deleted = flag(request, "deleted_only", "deletedOnly")
    found = await schemas.store.heads(caller, parse_subject(subject), deleted=only_deleted or flag(request, "deleted"))
    return page(request, [version.version for version in found if version.deleted or not only_deleted])


@post("/subjects/{subject:str}/versions", scope="publish")
async def register_schema(
    subject: FromPath[str], data: JSONBody[SchemaRequest], caller: Caller, schemas: Schemas
) -> RegisteredAnswer:
    registered = await schemas.register(caller, parse_subject(subject), new_schema(data))
    return RegisteredAnswer(registered.schema_id, registered.version, str(registered.digest))


@get("/subjects/{subject:str}/versions/{version:str}", scope="read")
async def get_version(
    request: AnyRequest, subject: FromPath[str], version: FromPath[str], caller: Caller, schemas: Schemas
) -> SchemaAnswer:
    found = await schemas.store.version(
        caller, parse_subject(subject), parse_version(version), deleted=flag(request, "deleted")
    )
    return answer(found, format=request.query_params.get("format"))


@delete("/subjects/{subject:str}/versions/{version:str}", scope="operate")
async def delete_version(
    request: AnyRequest, subject: FromPath[str], version: FromPath[str], caller: Caller, schemas: Schemas
) -> int:
    name, number = parse_subject(subject), parse_version(version)
    if number is None:
        number = (await schemas.store.version(caller, name, None)).version
    [deleted] = await schemas.delete(caller, name, number, permanent=flag(request, "permanent"))
    return deleted


@get("/subjects/{subject:str}/versions/{version:str}/schema", scope="read")
async def get_text(subject: FromPath[str], version: FromPath[str], caller: Caller, schemas: Schemas) -> str:
    return (await schemas.store.version(caller, parse_subject(subject), parse_version(version))).schema


@get("/subjects/{subject:str}/versions/{version:str}/referencedby", scope="read")
async def list_referrers(subject: FromPath[str], version: FromPath[str], caller: Caller, schemas: Schemas) -> list[int]:
    found = await schemas.store.version(caller, parse_subject(subject), parse_version(version), deleted=True)
    return await schemas.store.referrers(caller, found.subject, found.version)


@get("/subjects/{subject:str}/metadata", scope="read")
async def get_version_with_metadata(
    request: AnyRequest, subject: FromPath[str], caller: Caller, schemas: Schemas
) -> SchemaAnswer:
    """The newest version with these properties in its metadata."""
    query = request.query_params
    wanted = dict(zip(query.getall("key", []), query.getall("value", []), strict=False))
    found = await schemas.store.with_properties(
        caller, parse_subject(subject), wanted, deleted=flag(request, "deleted")
    )
    return answer(found, format=query.get("format"))


# Schemas


@get("/schemas/ids/{schema_id:str}", scope="read")
async def get_schema(request: AnyRequest, schema_id: FromPath[str], caller: Caller, schemas: Schemas) -> SchemaAnswer:
    subject = request.query_params.get("subject")
    found = await schemas.store.of_schema(caller, _parse_id(schema_id), subject)
    return answer(found, format=request.query_params.get("format"), of_subject=found.subject == subject)


@get("/schemas/ids/{schema_id:str}/schema", scope="read")
async def get_text_of_schema(schema_id: FromPath[str], caller: Caller, schemas: Schemas) -> str:
    return (await schemas.store.of_schema(caller, _parse_id(schema_id))).schema


@get("/schemas/ids/{schema_id:str}/subjects", scope="read")
async def list_subjects_of_schema(
    request: AnyRequest, schema_id: FromPath[str], caller: Caller, schemas: Schemas
) -> list[str]:
    found = await schemas.store.heads_of_schema(caller, _parse_id(schema_id), deleted=flag(request, "deleted"))
    return page(request, list(dict.fromkeys(version.subject for version in found)))


@get("/schemas/ids/{schema_id:str}/versions", scope="read")
async def list_versions_of_schema(
    request: AnyRequest, schema_id: FromPath[str], caller: Caller, schemas: Schemas
) -> list[SubjectVersion]:
    found = await schemas.store.heads_of_schema(caller, _parse_id(schema_id), deleted=flag(request, "deleted"))
    return page(request, [SubjectVersion(version.subject, version.version) for version in found])


@get("/schemas/guids/{guid:str}", scope="read")
async def get_schema_by_guid(
    request: AnyRequest, guid: FromPath[str], caller: Caller, schemas: Schemas
) -> SchemaAnswer:
    try:
        digest = UUID(guid)
    except ValueError:
        raise UnknownSchema("A guid is a UUID.") from None
    found = await schemas.store.of_digest(caller, digest)
    return answer(found, format=request.query_params.get("format"), of_subject=False)


@get("/schemas/types", scope="read")
async def list_types() -> list[str]:
    return list(KINDS)


@get("/contexts", scope="read")
async def list_contexts() -> list[str]:
    return ["."]


@get("/associations/resources/{namespace:str}/{name:str}", scope="read")
async def list_associations(namespace: FromPath[str], name: FromPath[str]) -> list[str]:
    """Serializers ask for them first. Without any, a client takes the subject <topic>-value or <topic>-key."""
    return []


# Compatibility


@post("/compatibility/subjects/{subject:str}/versions", scope="read")
async def check_schema(
    request: AnyRequest, subject: FromPath[str], data: JSONBody[SchemaRequest], caller: Caller, schemas: Schemas
) -> Compatibility:
    reasons = await schemas.check(caller, parse_subject(subject), new_schema(data))
    return Compatibility(not reasons, reasons) if flag(request, "verbose") else Compatibility(not reasons)


@post("/compatibility/subjects/{subject:str}/versions/{version:str}", scope="read")
async def check_schema_against(
    request: AnyRequest,
    subject: FromPath[str],
    version: FromPath[str],
    data: JSONBody[SchemaRequest],
    caller: Caller,
    schemas: Schemas,
) -> Compatibility:
    number: int | Literal["latest"] = parse_version(version) or "latest"
    reasons = await schemas.check(caller, parse_subject(subject), new_schema(data), against=number)
    return Compatibility(not reasons, reasons) if flag(request, "verbose") else Compatibility(not reasons)


router = Router(
    "/schema-registry",
    route_handlers=[
        *(get_root, list_subjects, look_up_schema, delete_subject, list_versions, register_schema),
        *(get_version, delete_version, get_text, list_referrers, get_version_with_metadata),
        *(get_schema, get_text_of_schema, list_subjects_of_schema, list_versions_of_schema, get_schema_by_guid),
        *(list_types, list_contexts, list_associations, check_schema, check_schema_against),
        *rules.HANDLERS,
    ],
    dependencies={"caller": Provide(caller_of, sync_to_thread=False)},
    exception_handlers=HANDLERS,
    include_in_schema=False,
    opt={"takes_basic": True},
)


def _parse_id(text: str) -> int:
    """Raises UnknownSchema."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise UnknownSchema(f"There is no schema {text[:50]!r}: an id is a number.")
    return int(text)
