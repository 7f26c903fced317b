"""The child process that compares schemas: a Question on stdin, an Answer on stdout (`compare.py` starts it)."""

import sys

import msgspec

from service.schemas.compatibility import json_schema
from service.schemas.compatibility.question import Answer, Pair, Question, Side


def _reasons(pair: Pair) -> list[str]:
    if pair.reader.kind != pair.writer.kind:
        return [f"the kind of the schema is {pair.reader.kind}, not {pair.writer.kind}"]
    if pair.reader.kind == "JSON":
        return json_schema.unreadable(_json(pair.reader), _json(pair.writer))
    from service.schemas.compatibility import protobuf

    return protobuf.unreadable(protobuf.Document.parse(pair.reader), protobuf.Document.parse(pair.writer))


def _json(side: Side) -> json_schema.Document:
    others = {name: msgspec.json.decode(content) for name, content in side.imports.items()}
    return json_schema.Document(msgspec.json.decode(side.content), others)


def main() -> None:
    question = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Question)
    answer = Answer([_reasons(pair) for pair in question.pairs])
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


main()
