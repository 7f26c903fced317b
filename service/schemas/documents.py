"""Reads the texts of schemas, and tells those that mean the same by one digest.

A schema is checked together with those that it imports. The order of the keys of JSON, white space, comments, and the
name of a .proto file make no other schema.
"""

import hashlib
from collections.abc import Mapping
from uuid import UUID

import msgspec

from service.errors import Refused
from service.json_input import decode
from service.schemas import json_schema
from service.schemas.errors import InvalidSchema
from service.schemas.model import MAX_EXTRAS_BYTES, MAX_SCHEMA_BYTES, Kind, NewSchema, Reference, Source, Version

NO_PROTOBUF = "Protobuf is not installed here: run pip install 'treadle[protobuf]'."

Imports = Mapping[str, Version]
"""The schemas that a schema imports, and those that these import, by the name that the text calls them."""


class Document(msgspec.Struct, frozen=True):
    """A schema that was read. `descriptor`: of Protobuf. `source`: for its checks in a child process."""

    digest: UUID
    descriptor: bytes | None
    source: Source


def text_of(new: NewSchema, imports: Imports) -> Source:
    """A new schema as a child process reads it. Raises InvalidSchema."""
    text = new.schema.encode()
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidSchema(f"The schema is too large; at most {MAX_SCHEMA_BYTES} bytes are allowed.")
    if new.extras is not None and len(msgspec.json.encode(new.extras)) > MAX_EXTRAS_BYTES:
        raise InvalidSchema(f"metadata and ruleSet must have at most {MAX_EXTRAS_BYTES} bytes together.")
    return Source(new.kind, text, _contents(new.kind, imports))


def read(text: Source) -> bytes:
    """The content of the schema: its JSON in one form, or the descriptor of the .proto file. It may take long. Raises
    InvalidSchema."""
    return _read_json(text) if text.kind == "JSON" else _read_protobuf(text)


def document_of(new: NewSchema, content: bytes, imports: Imports) -> Document:
    """`content`: as `read` returns it."""
    meaning = msgspec.json.encode((new.kind, content, new.refs, new.extras), order="sorted")
    return Document(
        UUID(bytes=hashlib.sha256(meaning).digest()[:16]),
        None if new.kind == "JSON" else content,
        Source(new.kind, content, _contents(new.kind, imports)),
    )


def from_file(content: bytes, refs: tuple[Reference, ...]) -> NewSchema:
    """The schema in a file: JSON, the text of a .proto file, or a descriptor set, of which the last file counts. Raises
    InvalidSchema."""
    try:
        return NewSchema("JSON", msgspec.json.encode(msgspec.json.decode(content, type=msgspec.Raw)).decode(), refs)
    except (msgspec.DecodeError, UnicodeError) as error:
        if content.lstrip()[:1] in (b"{", b"["):
            reason = str(error).removeprefix("JSON is malformed: ")
            raise InvalidSchema(f"The file is not valid JSON: {reason}.") from None
        if not content.strip():
            raise InvalidSchema("The file is empty.") from None
    try:
        from service.schemas import protobuf_files
    except ImportError:
        raise InvalidSchema(f"The file is not JSON. {NO_PROTOBUF}") from None
    try:
        return NewSchema("PROTOBUF", protobuf_files.from_file(content), refs)
    except ValueError as error:
        raise InvalidSchema(str(error)) from None


def source_of(version: Version, imports: Imports) -> Source:
    """A stored version for its checks in a child process."""
    return Source(version.kind, _content(version), _contents(version.kind, imports))


def _contents(kind: Kind, imports: Imports) -> dict[str, bytes]:
    """A schema refers to others of its kind only."""
    return {name: _content(version) for name, version in imports.items() if version.kind == kind}


def _content(version: Version) -> bytes:
    return version.schema.encode() if version.descriptor is None else version.descriptor


def _read_json(text: Source) -> bytes:
    try:
        schema = decode(text.content, object, "schema")
    except Refused as error:
        raise InvalidSchema(str(error)) from None
    try:
        json_schema.validate(json_schema.Document(schema, json_schema.parse_all(text.imports)))
    except ValueError as error:
        raise InvalidSchema(f"The text is no valid JSON Schema: {error}") from None
    return msgspec.json.encode(schema, order="sorted")


def _read_protobuf(text: Source) -> bytes:
    try:
        from service.schemas import protobuf_files
    except ImportError:
        raise InvalidSchema(NO_PROTOBUF) from None
    try:
        return protobuf_files.read(text.content.decode(), text.imports)
    except ValueError as error:
        raise InvalidSchema(str(error)) from None
