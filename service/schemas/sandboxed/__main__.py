"""The child process (`checks.py` starts it through `service.sandbox`)."""

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from service import sandbox
from service.schemas import documents, json_schema
from service.schemas.compatibility import json_schema as json_schema_changes
from service.schemas.errors import InvalidSchema
from service.schemas.model import Source
from service.schemas.sandboxed.questions import Compare, Content, FirstMisfit, Fit, Pair, Question, Read

KEPT_SCHEMAS = 32  # compiled


def _answer(question: bytes) -> bytes:
    asked: Question = msgspec.msgpack.decode(question, type=Question)
    return msgspec.msgpack.encode(_answer_to(asked))


def _answer_to(asked: Question) -> list[list[str]] | Content | str | FirstMisfit | None:
    match asked:
        case Compare(pairs):
            return [_reasons(pair) for pair in pairs]
        case Read(text):
            return _read(text)
        case Fit(source, values):
            return _first_misfit(source, values)


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


def _first_misfit(source: bytes, values: bytes) -> FirstMisfit | None:
    try:
        check = _compile(source)
    except ValueError as error:
        return FirstMisfit(None, "", str(error))
    for number, value in enumerate(msgspec.json.decode(values)):
        if (misfit := check(value)) is not None:
            return FirstMisfit(number, *misfit)
    return None


@functools.lru_cache(KEPT_SCHEMAS)
def _compile(source: bytes) -> Callable[[Any], tuple[str, str] | None]:
    return json_schema.checker(json_schema.parse(msgspec.msgpack.decode(source, type=Source)))


sandbox.serve(_answer)
