"""A registry of types: their names, and their values as JSON, binary and base64."""

import base64
import binascii
from typing import Any

import msgspec

from service.agents.protobuf_types import from_json, is_message, to_json


class Types:
    """Types by name. The reading methods raise LookupError for a name that is not known, and ValueError for a value
    that does not fit the type; fields that the type does not have are passed over."""

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}

    def add(self, declared: Any, name: str | None = None) -> Any:
        """Give a type a name: without one its own, which is the full name of a Protobuf message. Returns the type, so
        that it is also a decorator. Raises ValueError for a name that another type has."""
        name = name or _own_name(declared)
        if self._types.setdefault(name, declared) is not declared:
            raise ValueError(f"the name {name!r} belongs to another type")
        return declared

    def get(self, name: str) -> Any:
        try:
            return self._types[name]
        except KeyError:
            raise LookupError(f"there is no type {name!r}: add it first") from None

    def name_of(self, value: Any) -> str:
        """The name of the type of a value. Raises LookupError."""
        for name, declared in self._types.items():
            if type(value) is declared:
                return name
        raise LookupError(f"the type {type(value).__qualname__} has no name: add it first")

    @property
    def names(self) -> list[str]:
        return sorted(self._types)

    def write_json(self, value: Any) -> str:
        return msgspec.json.encode(value, enc_hook=to_json).decode()

    def read_json(self, name: str, text: str | bytes) -> Any:
        return msgspec.json.decode(text, type=self.get(name), dec_hook=from_json)

    def write_binary(self, value: Any) -> bytes:
        """A Protobuf message in its own encoding, any other value as MessagePack."""
        if is_message(type(value)):
            return bytes(value.SerializeToString(deterministic=True))
        return msgspec.msgpack.encode(value, enc_hook=to_json)

    def read_binary(self, name: str, content: bytes) -> Any:
        declared = self.get(name)
        if not is_message(declared):
            return msgspec.msgpack.decode(content, type=declared, dec_hook=from_json)
        from google.protobuf.message import DecodeError

        try:
            return declared.FromString(content)
        except DecodeError as error:
            raise ValueError(f"the content is no {name}: {error}") from None

    def write_base64(self, value: Any) -> str:
        return base64.b64encode(self.write_binary(value)).decode()

    def read_base64(self, name: str, text: str) -> Any:
        try:
            content = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the text is not base64: {error}") from None
        return self.read_binary(name, content)


def _own_name(declared: Any) -> str:
    return str(declared.DESCRIPTOR.full_name if is_message(declared) else declared.__name__)


TYPES = Types()  # of this process
