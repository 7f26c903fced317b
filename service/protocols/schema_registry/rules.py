"""/schema-registry/config and /schema-registry/mode: what subjects allow."""

from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from service.access.principal import Principal
from service.protocols.schema_registry.calls import AnyRequest, Caller, Schemas, delete, get, put
from service.protocols.schema_registry.errors import InvalidLevel, InvalidMode, NoOwnLevel, NoOwnMode
from service.protocols.schema_registry.model import LevelAnswer, LevelRequest, LevelSet, ModeAnswer, ModeRequest
from service.protocols.schema_registry.paths import parse_subject
from service.protocols.schema_registry.translate import flag
from service.schemas.model import ALL_SUBJECTS, DEFAULT_LEVEL, DEFAULT_MODE, LEVELS, MODES
from service.schemas.registry import Registry


@get("/config", scope="read")
async def get_level(caller: Caller, schemas: Schemas) -> LevelAnswer:
    return LevelAnswer(await schemas.level(caller, ALL_SUBJECTS))


@put("/config", scope="operate")
async def set_level(data: JSONBody[LevelRequest], caller: Caller, schemas: Schemas) -> LevelSet:
    return await _set_level(caller, schemas, ALL_SUBJECTS, data)


@delete("/config", scope="operate")
async def delete_level(caller: Caller, schemas: Schemas) -> LevelAnswer:
    former = await schemas.store.set_rule(caller, "compatibility", None)
    return LevelAnswer(former or DEFAULT_LEVEL)


@get("/config/{subject:str}", scope="read")
async def get_level_of_subject(
    request: AnyRequest, subject: FromPath[str], caller: Caller, schemas: Schemas
) -> LevelAnswer:
    name = parse_subject(subject)
    own = await schemas.store.rule(caller, "compatibility", name, inherited=False)
    if own is None and not flag(request, "defaultToGlobal"):
        raise NoOwnLevel(f"The subject {name!r} has no compatibility of its own.")
    return LevelAnswer(own or await schemas.level(caller, name))


@put("/config/{subject:str}", scope="operate")
async def set_level_of_subject(
    subject: FromPath[str], data: JSONBody[LevelRequest], caller: Caller, schemas: Schemas
) -> LevelSet:
    return await _set_level(caller, schemas, parse_subject(subject), data)


@delete("/config/{subject:str}", scope="operate")
async def delete_level_of_subject(subject: FromPath[str], caller: Caller, schemas: Schemas) -> LevelAnswer:
    name = parse_subject(subject)
    former = await schemas.store.set_rule(caller, "compatibility", None, name)
    if former is None:
        raise NoOwnLevel(f"The subject {name!r} has no compatibility of its own.")
    return LevelAnswer(former)


@get("/mode", scope="read")
async def get_mode(caller: Caller, schemas: Schemas) -> ModeAnswer:
    return ModeAnswer(await schemas.store.rule(caller, "mode") or DEFAULT_MODE)


@put("/mode", scope="operate")
async def set_mode(data: JSONBody[ModeRequest], caller: Caller, schemas: Schemas) -> ModeAnswer:
    return await _set_mode(caller, schemas, ALL_SUBJECTS, data)


@delete("/mode", scope="operate")
async def delete_mode(caller: Caller, schemas: Schemas) -> ModeAnswer:
    return ModeAnswer(await schemas.store.set_rule(caller, "mode", None) or DEFAULT_MODE)


@get("/mode/{subject:str}", scope="read")
async def get_mode_of_subject(
    request: AnyRequest, subject: FromPath[str], caller: Caller, schemas: Schemas
) -> ModeAnswer:
    name, or_global = parse_subject(subject), flag(request, "defaultToGlobal")
    found = await schemas.store.rule(caller, "mode", name, inherited=or_global)
    if found is None and not or_global:
        raise NoOwnMode(f"The subject {name!r} has no mode of its own.")
    return ModeAnswer(found or DEFAULT_MODE)


@put("/mode/{subject:str}", scope="operate")
async def set_mode_of_subject(
    subject: FromPath[str], data: JSONBody[ModeRequest], caller: Caller, schemas: Schemas
) -> ModeAnswer:
    return await _set_mode(caller, schemas, parse_subject(subject), data)


@delete("/mode/{subject:str}", scope="operate")
async def delete_mode_of_subject(subject: FromPath[str], caller: Caller, schemas: Schemas) -> ModeAnswer:
    name = parse_subject(subject)
    former = await schemas.store.set_rule(caller, "mode", None, name)
    if former is None:
        raise NoOwnMode(f"The subject {name!r} has no mode of its own.")
    return ModeAnswer(former)


HANDLERS: list[HTTPRouteHandler] = [
    *(get_level, set_level, delete_level, get_level_of_subject, set_level_of_subject, delete_level_of_subject),
    *(get_mode, set_mode, delete_mode, get_mode_of_subject, set_mode_of_subject, delete_mode_of_subject),
]


async def _set_level(caller: Principal, schemas: Registry, subject: str, data: LevelRequest) -> LevelSet:
    level = next((level for level in LEVELS if level == data.compatibility.upper()), None)
    if level is None:
        raise InvalidLevel(f"The compatibility must be one of {', '.join(LEVELS)}.")
    await schemas.store.set_rule(caller, "compatibility", level, subject)
    return LevelSet(level)


async def _set_mode(caller: Principal, schemas: Registry, subject: str, data: ModeRequest) -> ModeAnswer:
    mode = next((mode for mode in MODES if mode == data.mode.upper()), None)
    if mode is None:
        raise InvalidMode(f"The mode must be one of {', '.join(MODES)}.")
    await schemas.store.set_rule(caller, "mode", mode, subject)
    return ModeAnswer(mode)
