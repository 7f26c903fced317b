"""Reads the text of a .proto file as its descriptor, as far as schemas of values need it.

Services and options that say nothing about values are passed over. Extensions, groups and editions are refused. The
work is linear in the text.
"""

from collections.abc import Iterator
from typing import NoReturn

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

MAX_DEPTH = 32  # of messages in messages
MAX_FIELD_NUMBER = 536_870_911
MAX_ENUM_NUMBER = 2_147_483_647
LABELS = {
    "optional": FieldDescriptorProto.LABEL_OPTIONAL,
    "required": FieldDescriptorProto.LABEL_REQUIRED,
    "repeated": FieldDescriptorProto.LABEL_REPEATED,
}
SCALARS = {
    name: getattr(FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in (
        *("double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "bytes", "uint32"),
        *("sfixed32", "sfixed64", "sint32", "sint64"),
    )
}
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\"}
END = ("", 0)


def parse(text: str) -> FileDescriptorProto:
    """The descriptor; types are named as the text names them. Raises ValueError with one sentence."""
    return _Parser(text).file()


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Words, numbers, texts (beginning with a quote) and signs, each with its line."""
    at, line = 0, 1
    while at < len(text):
        character = text[at]
        if character == "\n":
            line += 1
        if character.isspace():
            at += 1
        elif text.startswith("//", at):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            if end < 0:
                raise ValueError(f"Line {line} of the .proto file begins a comment that has no end.")
            line += text.count("\n", at, end)
            at = end + 2
        elif character in "\"'":
            end = _end_of_text(text, at, line)
            yield text[at:end], line
            at = end
        elif character.isalnum() or character in "_.-":
            end = at + 1
            while end < len(text) and (text[end].isalnum() or text[end] in "_."):
                end += 1
            yield text[at:end], line
            at = end
        else:
            yield character, line
            at += 1


def _end_of_text(text: str, at: int, line: int) -> int:
    end = at + 1
    while end < len(text) and text[end] not in (text[at], "\n"):
        end += 2 if text[end] == "\\" else 1
    if end >= len(text) or text[end] == "\n":
        raise ValueError(f"Line {line} of the .proto file begins a text that has no end.")
    return end + 1


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next, self._line = next(self._tokens, END)
        self._proto3 = False

    def file(self) -> FileDescriptorProto:
        file = FileDescriptorProto()
        while self._next:
            match self._take():
                case "syntax":
                    self._expect("=")
                    file.syntax = self._text()
                    self._proto3 = file.syntax == "proto3"
                    if file.syntax not in ("proto2", "proto3"):
                        self._refuse("has a syntax that is neither proto2 nor proto3")
                    self._expect(";")
                case "package":
                    file.package = self._take()
                    self._expect(";")
                case "import":
                    self._import(file)
                case "message":
                    self._message(file.message_type.add(), 1)
                case "enum":
                    self._enum(file.enum_type.add())
                case "option" | "service":
                    self._pass_over()
                case ";":
                    pass
                case other:
                    self._refuse(f"has {other!r}, which is not supported here")
        if file.syntax == "proto2":
            file.ClearField("syntax")  # the default, as protoc writes it
        return file

    def _import(self, file: FileDescriptorProto) -> None:
        kind = self._take() if self._next in ("public", "weak") else None
        if kind == "public":
            file.public_dependency.append(len(file.dependency))
        file.dependency.append(self._text())
        self._expect(";")

    def _message(self, message: DescriptorProto, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._refuse(f"has messages nested deeper than {MAX_DEPTH}")
        message.name = self._take()
        self._expect("{")
        while self._next != "}":
            match self._take():
                case "message":
                    self._message(message.nested_type.add(), depth + 1)
                case "enum":
                    self._enum(message.enum_type.add())
                case "oneof":
                    self._oneof(message)
                case "option" | "extensions":
                    self._pass_over()
                case "reserved":
                    self._reserved(message)
                case ";":
                    pass
                case word:
                    self._field(message, word)
        self._expect("}")
        self._add_synthetic_oneofs(message)

    def _field(self, message: DescriptorProto, word: str, oneof: int | None = None) -> None:
        field = message.field.add(label=FieldDescriptorProto.LABEL_OPTIONAL)
        if word in LABELS and oneof is None:
            field.label = LABELS[word]
            field.proto3_optional = self._proto3 and word == "optional"
            word = self._take()
        if word in ("group", "extend", ""):
            self._refuse(f"has {word or 'its end'!r}, which is not supported here")
        entry = self._map_types() if word == "map" and self._next == "<" else None
        field.name = self._take()
        if entry is not None:
            field.label = FieldDescriptorProto.LABEL_REPEATED
            word = self._add_entry(message, field.name, entry)
        _set_type(field, word)
        self._expect("=")
        field.number = self._number()
        if oneof is not None:
            field.oneof_index = oneof
        self._field_options(field)
        self._expect(";")

    def _map_types(self) -> tuple[str, str]:
        self._expect("<")
        key = self._take()
        self._expect(",")
        value = self._take()
        self._expect(">")
        return key, value

    def _add_entry(self, message: DescriptorProto, name: str, types: tuple[str, str]) -> str:
        entry = message.nested_type.add()
        entry.name = "".join(word[:1].upper() + word[1:] for word in name.split("_")) + "Entry"
        entry.options.map_entry = True
        for number, (part, type) in enumerate(zip(("key", "value"), types, strict=True), 1):
            field = entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            _set_type(field, type)
        return entry.name

    def _oneof(self, message: DescriptorProto) -> None:
        index = len(message.oneof_decl)
        message.oneof_decl.add(name=self._take())
        self._expect("{")
        while self._next != "}":
            word = self._take()
            if word == "option":
                self._pass_over()
            elif word != ";":
                self._field(message, word, index)
        self._expect("}")

    def _add_synthetic_oneofs(self, message: DescriptorProto) -> None:
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")

    def _field_options(self, field: FieldDescriptorProto) -> None:
        if self._next != "[":
            return
        while self._next != "]":
            self._take()  # [ or a comma
            name = self._take()
            if name == "(":
                self._refuse("has an option in parentheses, which is not supported here")
            self._expect("=")
            value = self._text() if self._next[:1] in ("'", '"') else self._take()
            if name == "json_name":
                field.json_name = value
            elif name == "default":
                field.default_value = value
            elif name in ("packed", "deprecated"):
                setattr(field.options, name, value == "true")
        self._expect("]")

    def _enum(self, enum: EnumDescriptorProto) -> None:
        enum.name = self._take()
        self._expect("{")
        while self._next != "}":
            match self._take():
                case "option":
                    allow_alias = self._next == "allow_alias"
                    self._pass_over()
                    if allow_alias:
                        enum.options.allow_alias = True
                case "reserved":
                    self._reserved(enum)
                case ";":
                    pass
                case name:
                    self._expect("=")
                    enum.value.add(name=name, number=self._number())
                    if self._next == "[":
                        self._pass_over()
                    else:
                        self._expect(";")
        self._expect("}")

    def _reserved(self, holder: DescriptorProto | EnumDescriptorProto) -> None:
        of_message = isinstance(holder, DescriptorProto)
        while True:
            if self._next[:1] in ("'", '"'):
                holder.reserved_name.append(self._text())
            else:
                start = end = self._number()
                if self._next == "to":
                    self._take()
                    largest = MAX_FIELD_NUMBER if of_message else MAX_ENUM_NUMBER
                    end = largest if self._next == "max" else self._number()
                    if self._next == "max":
                        self._take()
                # The end of a message's range lies behind it, that of an enum's belongs to it.
                holder.reserved_range.add(start=start, end=end + of_message)
            if self._take() == ";":
                return

    def _pass_over(self) -> None:
        """To the end of a statement: a semicolon, or the end of a block."""
        depth = 0
        while True:
            token = self._take()
            depth += (token == "{") - (token == "}")
            if depth == 0 and token in (";", "}"):
                return

    def _number(self) -> int:
        word = self._take()
        try:
            return int(word, 0)
        except ValueError:
            self._refuse(f"has {word!r} where a number must be")

    def _text(self) -> str:
        """A text, which may have several parts."""
        if self._next[:1] not in ("'", '"') or not self._next:
            self._refuse(f"has {self._next!r} where a text in quotes must be")
        parts = []
        while self._next[:1] in ("'", '"') and self._next:
            parts.append(_unquoted(self._take()))
        return "".join(parts)

    def _take(self) -> str:
        token = self._next
        if not token:
            self._refuse("ends too early")
        self._next, self._line = next(self._tokens, ("", self._line))
        return token

    def _expect(self, token: str) -> None:
        if self._next != token:
            self._refuse(f"has {self._next!r} where {token!r} must be")
        self._take()

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"Line {self._line} of the .proto file {reason[:200]}.")


def _set_type(field: FieldDescriptorProto, word: str) -> None:
    if word in SCALARS:
        field.type = SCALARS[word]
    else:
        field.type_name = word


def _unquoted(token: str) -> str:
    parts, at = [], 1
    while at < len(token) - 1:
        if token[at] == "\\":
            at += 1
            parts.append(ESCAPES.get(token[at], token[at]))
        else:
            parts.append(token[at])
        at += 1
    return "".join(parts)
