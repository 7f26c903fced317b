"""`treadle schemas`: register, list, show, check, set the compatibility, delete."""

import base64
import json
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.support.cli_runner import Cli, error_sentence
from tests.support.schema_changes import A, B, file


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    """Files by name."""
    texts = {
        "text": '{"type": "string"}',
        "short": '{"type": "string", "maxLength": 3}',
        "broken": '{"type": 5}',
        "cut": "{",
        "empty": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    descriptor = FileDescriptorProto.FromString(base64.b64decode(file(A, B)))
    (tmp_path / "set").write_bytes(FileDescriptorSet(file=[descriptor]).SerializeToString())
    (tmp_path / "noise").write_bytes(b"\xff\xfe")
    return {path.name: str(path) for path in tmp_path.iterdir()}


async def test_a_schema_from_register_to_delete(cli: Cli, written: dict[str, str]) -> None:
    registered = await cli("schemas", "register", "s", written["short"])
    assert registered.output == "s has this schema as version 1, with the id 1.\n"
    again = json.loads((await cli("schemas", "register", "s", written["short"], "--json")).output)
    assert (again["schema_id"], again["version"]) == (1, 1)
    assert (await cli("schemas", "check", "s", written["text"])).output == "s allows this schema.\n"
    assert (await cli("schemas", "compatibility", "s")).output == "BACKWARD\n"
    assert (await cli("schemas", "compatibility", "s", "--set", "full")).output == "FULL\n"
    checked = await cli("schemas", "check", "s", written["text"])
    assert (checked.exit_code, checked.output.startswith("version 1 reading new values: #: ")) == (1, True)
    assert json.loads((await cli("schemas", "check", "s", written["text"], "--json")).output)["is_compatible"] is False
    assert "breaks the compatibility FULL of 's'" in error_sentence(
        await cli("schemas", "register", "s", written["text"])
    )
    assert (await cli("schemas", "compatibility", "s", "--reset")).output == "BACKWARD\n"
    assert (await cli("schemas", "register", "s", written["text"])).exit_code == 0
    assert (await cli("schemas", "show", "s", "--version", "1")).output == '{"type": "string", "maxLength": 3}\n'
    assert json.loads((await cli("schemas", "show", "s", "--json")).output)["version"] == 2
    assert [each["version"] for each in json.loads((await cli("schemas", "list", "--json")).output)] == [2]
    assert (await cli("schemas", "delete", "s", "--version", "1", "--yes")).output == "Deleted of s: 1.\n"
    deleted = await cli("schemas", "delete", "s", "--yes", "--json")
    assert json.loads(deleted.output) == {"versions": [2]}
    assert (await cli("schemas", "list")).output == "There are no schemas.\n"
    assert "deleted already" in error_sentence(await cli("schemas", "delete", "s", "--yes"))
    assert (await cli("schemas", "delete", "s", "--permanent", "--yes")).output == "Deleted of s: 1, 2.\n"


async def test_protobuf_references_and_tenants(cli: Cli, written: dict[str, str]) -> None:
    assert (await cli("tenants", "create", "acme")).exit_code == 0
    assert (await cli("schemas", "register", "p", written["set"], "--tenant", "acme")).exit_code == 0
    assert (await cli("schemas", "list")).output == "There are no schemas.\n"
    assert "PROTOBUF" in (await cli("schemas", "list", "--tenant", "acme")).output
    reference = ("--reference", "a.json=missing:1")
    assert "does not exist" in error_sentence(await cli("schemas", "register", "s", written["text"], *reference))
    assert (await cli("schemas", "register", "s", written["text"], "--reference", "missing")).exit_code == 2
    assert "is not valid JSON" in error_sentence(await cli("schemas", "register", "s", written["cut"]))
    assert "The file is empty" in error_sentence(await cli("schemas", "register", "s", written["empty"]))
    for subject in ("", "x" * 256, "a\nb"):
        assert (await cli("schemas", "register", subject, written["text"])).exit_code == 2
    assert (await cli("schemas", "compatibility", "s", "--set", "FULL", "--reset")).exit_code == 2
    assert "is no valid JSON Schema" in error_sentence(await cli("schemas", "register", "s", written["broken"]))
    assert "neither JSON nor a .proto file nor a descriptor set" in error_sentence(
        await cli("schemas", "register", "s", written["noise"])
    )
