"""The child process (`checks.py` starts it through `service.sandbox`)."""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from service import sandbox
from service.schemas import documents, json_schema
from service.schemas.compatibility import json_schema as json_schema_changes
from service.schemas.errors import InvalidSchema
from service.schemas.model import Source
from service.schemas.sandboxed.questions import (
    Compare,
    Content,
    FirstMisfit,
    Fit,
    Fitting,
    Pair,
    Question,
    Read,
    Unknown,
)

KEPT_SCHEMAS = 32  # compiled

Reader: TypeAlias = Callable[[Any], tuple[bytes | None, tuple[str, str] | None]]
"""The value as it is stored (None: as it is), and None; or where and why it does not fit."""

_compiled: dict[bytes, Reader] = {}  # by the key of the source, the one that was used last at the end


def _answer(question: bytes) -> bytes:
    asked: Question = msgspec.msgpack.decode(question, type=Question)
    return msgspec.msgpack.encode(_answer_to(asked))


def _answer_to(asked: Question) -> list[list[str]] | Content | str | Fitting | FirstMisfit | Unknown:
    match asked:
        case Compare(pairs):
            return [_reasons(pair) for pair in pairs]
        case Read(text):
            return _read(text)
        case Fit():
            return _fit(asked)


def _reasons(pair: Pair) -> list[str]:
    if pair.reader.kind != pair.writer.kind:
        return [f"the kind of the schema is {pair.reader.kind}, not {pair.writer.kind}"]
    if pair.reader.kind == "JSON":
        return json_schema_changes.unreadable(json_schema.parse(pair.reader), json_schema.parse(pair.writer))
    from service.schemas.compatibility import protobuf

    return protobuf.unreadable(protobuf.Document.parse(pair.reader), protobuf.Document.parse(pair.writer))


def _read(text: Source) -> Content | str:
    try:
        return Content(documents.read(text))
    except InvalidSchema as error:
        return str(error)


def _fit(asked: Fit) -> Fitting | FirstMisfit | Unknown:
    read = _compiled.pop(asked.key, None)
    if read is None:
        if asked.source is None:
            return Unknown()
        try:
            read = _compile(asked.source)
        except (ValueError, ImportError) as error:
            return FirstMisfit(None, "", str(error).partition("\n")[0].rstrip("."))
    _compiled[asked.key] = read  # the newest last
    if len(_compiled) > KEPT_SCHEMAS:
        del _compiled[next(iter(_compiled))]
    stored = []
    for number, value in enumerate(asked.values):
        plain, misfit = read(value.content if value.is_binary else msgspec.json.decode(value.content))
        if misfit is not None:
            return FirstMisfit(number, *misfit)
        stored.append(plain)
    return Fitting(stored)


def _compile(source: Source) -> Reader:
    if source.kind == "JSON":
        check = json_schema.checker(json_schema.parse(source))
        return lambda value: (None, check(value))
    from service.schemas import protobuf_files, protobuf_values

    read = protobuf_values.reader(*protobuf_files.first_message(source.content, source.imports))

    def read_as_json(value: Any) -> tuple[bytes | None, tuple[str, str] | None]:
        plain, misfit = read(value)
        return msgspec.json.encode(plain), misfit

    return read_as_json


sandbox.serve(_answer)
