"""Texts of .proto files: read as protoc reads them, and refused with the line."""

import base64

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from service.schemas import proto_text, protobuf_files
from tests.support.repository import ROOT
from treadle.v1 import coding_pb2, common_pb2, plan_pb2

FILES = {"common": common_pb2, "plan": plan_pb2, "coding": coding_pb2}


def read(name: str, text: str) -> bytes:
    """With the other files of treadle.v1 as imports."""
    others = {
        f"treadle/v1/{other}.proto": module.DESCRIPTOR.serialized_pb for other, module in FILES.items() if other != name
    }
    return protobuf_files.read(text, others)


@pytest.mark.parametrize("name", FILES)
def test_the_text_means_what_protoc_makes_of_it(name: str) -> None:
    text = (ROOT / f"proto/treadle/v1/{name}.proto").read_text(encoding="utf-8")
    assert read(name, text) == read(name, base64.b64encode(FILES[name].DESCRIPTOR.serialized_pb).decode())


def test_every_part_of_the_language_that_values_need() -> None:
    text = """
        syntax = "proto3"; /* a comment
        over lines */ package a.b;
        option java_package = "x";
        message M {
            message Inner { E e = 1; }
            enum E { option allow_alias = true; NONE = 0; ZERO = 0; LOW = -1 [deprecated = true]; reserved 5 to max; }
            optional string maybe = 1 [json_name = "per" "haps", deprecated = true];
            repeated int32 numbers = 0x2 [packed = false];
            map<string, Inner> by_name = 3;
            oneof choice { Inner inner = 4; .a.b.M other = 5; }
            reserved 6, 8 to 9; reserved "old", 'older';
        }
        service S { rpc Do (M) returns (M) { option (x) = {a: ";"}; } }
        message Last { M.Inner inner = 1; }
    """
    found = FileDescriptorProto.FromString(protobuf_files.read(text, {}))
    message, last = found.message_type
    fields = {field.name: field for field in message.field}
    assert (fields["maybe"].proto3_optional, fields["maybe"].json_name) == (True, "perhaps")
    assert (fields["numbers"].number, fields["numbers"].options.packed) == (2, False)
    assert (fields["by_name"].type_name, fields["other"].type_name) == (".a.b.M.ByNameEntry", ".a.b.M")
    assert [oneof.name for oneof in message.oneof_decl] == ["choice", "_maybe"]
    assert (fields["inner"].oneof_index, fields["maybe"].oneof_index) == (0, 1)
    assert [(each.start, each.end) for each in message.reserved_range] == [(6, 7), (8, 10)]
    assert list(message.reserved_name) == ["old", "older"]
    assert [value.number for value in message.enum_type[0].value] == [0, 0, -1]
    assert last.field[0].type_name == ".a.b.M.Inner"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The file has neither a message nor an enum."),
        ("message M {\n string a = x;\n}", "Line 2 of the .proto file has 'x' where a number must be."),
        ("message M { string a = 1; ", "Line 1 of the .proto file ends too early."),
        ("/* x", "Line 1 of the .proto file begins a comment that has no end."),
        ('syntax = "proto3', "Line 1 of the .proto file begins a text that has no end."),
        ('edition = "2023";', "Line 1 of the .proto file has 'edition', which is not supported here."),
        (
            "message M { repeated group G = 1 {} }",
            "Line 1 of the .proto file has 'group', which is not supported here.",
        ),
        ("message M {" * 40, "Line 1 of the .proto file has messages nested deeper than 32."),
        ("message M { Missing m = 1; }", "The schema is not valid: "),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"\.$") as refused:
        protobuf_files.read(text, {})
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("part", ["{", "message M {", "/*", '"', "\\", "reserved ", "a.", "-", "option x = {"])
def test_the_work_is_linear(part: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        proto_text.parse(part * (200_000 // len(part)))
