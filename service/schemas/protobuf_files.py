"""Reads the descriptors of .proto files. Needs the extra `protobuf`."""

import base64
import binascii
import importlib
from collections.abc import Mapping

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from service.schemas import proto_text

# What clients never register: it comes with the compiler or with their libraries.
BUNDLED = ("google/", "confluent/")
WELL_KNOWN = {
    f"google/protobuf/{name}.proto": f"google.protobuf.{name}_pb2"
    for name in (
        *("any", "api", "descriptor", "duration", "empty", "field_mask"),
        *("source_context", "struct", "timestamp", "type", "wrappers"),
    )
}


def read(text: str, imports: Mapping[str, bytes]) -> bytes:
    """The FileDescriptorProto in its shortest form. `text`: its base64, or a .proto file. Raises ValueError with one
    sentence."""
    try:
        file, has_types = FileDescriptorProto.FromString(base64.b64decode(text.strip(), validate=True)), True
    except (binascii.Error, ValueError, DecodeError):
        file, has_types = proto_text.parse(text), False
    if not (file.message_type or file.enum_type):
        raise ValueError("The file has neither a message nor an enum.")
    pool = _check(file, {name: FileDescriptorProto.FromString(descriptor) for name, descriptor in imports.items()})
    if not has_types:
        if pool is None:
            raise ValueError("The schema imports files that are not known here: send its descriptor in base64.")
        linked = FileDescriptorProto()  # with the full names of its types
        pool.FindFileByName(file.name or "schema").CopyToProto(linked)
        file = linked
    return _shortest(file).SerializeToString(deterministic=True)


def from_file(content: bytes) -> str:
    """What `read` takes of a file: the text of a .proto file, or base64 of the last file of a descriptor set. Raises
    ValueError with one sentence."""
    try:
        files = list(FileDescriptorSet.FromString(content).file)
    except DecodeError:
        files = []
    if not files:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise ValueError("The file is neither JSON nor a .proto file nor a descriptor set of protoc.") from None
        proto_text.parse(text)
        return text
    return base64.b64encode(files[-1].SerializeToString()).decode()


def first_message(descriptor: bytes, imports: Mapping[str, bytes]) -> tuple[type[Message], DescriptorPool]:
    """The class of the first message of the file, and the pool that it is in. Raises ValueError."""
    file = FileDescriptorProto.FromString(descriptor)
    if not file.message_type:
        raise ValueError("the file has no message")
    pool = _check(file, {name: FileDescriptorProto.FromString(content) for name, content in imports.items()})
    if pool is None:
        raise ValueError("it imports files that are not known here")
    name = ".".join(part for part in (file.package, file.message_type[0].name) if part)
    return GetMessageClass(pool.FindMessageTypeByName(name)), pool


def _shortest(file: FileDescriptorProto) -> FileDescriptorProto:
    """The file without what has no meaning: its name, comments, and names in JSON that follow from the fields'."""
    file.ClearField("name")
    file.ClearField("source_code_info")
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            if field.json_name == _json_name(field.name):
                field.ClearField("json_name")
    return file


def _json_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _check(file: FileDescriptorProto, others: Mapping[str, FileDescriptorProto]) -> DescriptorPool | None:
    """The file and its imports, linked; None if it imports what comes with the library of a client. Raises ValueError
    for an import that the references do not name, and for types that do not exist."""
    files = {**others, file.name or "schema": file}
    order = _in_order(file.name or "schema", files)
    missing = [name for name in order if name not in files and not name.startswith(BUNDLED)]
    if missing:
        raise ValueError(f"The schema imports {missing[0]!r}, which its references do not name.")
    if any(name not in files and name not in WELL_KNOWN for name in order):
        return None
    pool = DescriptorPool()
    for name in order:
        linked = FileDescriptorProto()
        if name in files:
            linked.CopyFrom(files[name])
        else:
            importlib.import_module(WELL_KNOWN[name]).DESCRIPTOR.CopyToProto(linked)
        linked.name = name
        try:
            pool.Add(linked)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:300]
            raise ValueError(f"The schema is not valid: {reason}.") from None
    return pool


def _in_order(root: str, files: Mapping[str, FileDescriptorProto]) -> list[str]:
    """The names of the file and of all that it imports, each after those that it imports itself."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"The file {name} imports itself.")
        if name not in order:
            known = list(files[name].dependency) if name in files else []
            if name in WELL_KNOWN and name not in files:
                known = [each.name for each in importlib.import_module(WELL_KNOWN[name]).DESCRIPTOR.dependencies]
            for other in known:
                visit(other, (*above, name))
            order.append(name)

    visit(root, ())
    return order
