"""The child process (`checks.py` starts it through `service.sandbox`)."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from service import sandbox
from service.schemas import documents, json_schema
from service.schemas.compatibility import json_schema as json_schema_changes
from service.schemas.errors import InvalidSchema
from service.schemas.model import Source
from service.schemas.sandboxed.questions import Compare, Content, FirstMisfit, Fit, Fitting, Pair, Question, Read, Value

KEPT_SCHEMAS = 32  # compiled

Reader: TypeAlias = Callable[[Any], tuple[bytes | None, tuple[str, str] | None]]
"""The value as it is stored (None: as it is), and None; or where and why it does not fit."""


def _answer(question: bytes) -> bytes:
    asked: Question = msgspec.msgpack.decode(question, type=Question)
    return msgspec.msgpack.encode(_answer_to(asked))


def _answer_to(asked: Question) -> list[list[str]] | Content | str | Fitting | FirstMisfit:
    match asked:
        case Compare(pairs):
            return [_reasons(pair) for pair in pairs]
        case Read(text):
            return _read(text)
        case Fit(source, values):
            return _fit(source, values)


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


def _fit(source: bytes, values: list[Value]) -> Fitting | FirstMisfit:
    stored = []
    try:
        read = _compile(source)
    except (ValueError, ImportError) as error:
        return FirstMisfit(None, "", str(error).partition("\n")[0].rstrip("."))
    for number, value in enumerate(values):
        plain, misfit = read(value.content if value.is_binary else msgspec.json.decode(value.content))
        if misfit is not None:
            return FirstMisfit(number, *misfit)
        stored.append(plain)
    return Fitting(stored)


@functools.lru_cache(KEPT_SCHEMAS)
def _compile(source: bytes) -> Reader:
    found = msgspec.msgpack.decode(source, type=Source)
    if found.kind == "JSON":
        check = json_schema.checker(json_schema.parse(found))
        return lambda value: (None, check(value))
    from service.schemas import protobuf_files, protobuf_values

    read = protobuf_values.reader(*protobuf_files.first_message(found.content, found.imports))

    def read_as_json(value: Any) -> tuple[bytes | None, tuple[str, str] | None]:
        plain, misfit = read(value)
        return msgspec.json.encode(plain), misfit

    return read_as_json


sandbox.serve(_answer)
