"""The commands, options, make targets and settings that the pages name exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from service.cli import main
from service.config import Settings
from tests.support.documents import PAGES, blocks
from tests.support.repository import ROOT

CALL = re.compile(r"(?:^|(?<!from)[\s(/])(treadle|make) ([a-z][^|;#)]*)")
MARKED = re.compile(r"`([^`\n]+)`")
VARIABLE = re.compile(r"(?<![\w.])([A-Z][A-Z0-9_]+)=(?!=)")
NAMES = [field.name.upper() for field in msgspec.structs.fields(Settings)]
# Variables of make, of tests, and that of the file of settings; and the word for any of them.
OTHERS = {"ARGS", "MINUTES", "RENEW_SCHEMA", "RENEW_TYPES", "TREADLE_CONFIG", "NAME"}
WRITTEN = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of names that went


def commands(page: Path) -> Iterator[str]:
    """The lines of its blocks, and what stands in code marks."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.language in {"", "sh"}:
            yield from block.text.replace("\\\n", " ").splitlines()
    yield from MARKED.findall(re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # it is cut in the middle of a quotation
        return text.split()


def misfit(program: str, arguments: list[str]) -> str | None:
    """The first name that the program does not have."""
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = re.findall(r"^([a-z0-9-]+):", makefile, re.M)
        return None if arguments[0] in targets else arguments[0]
    command: click.Command = main
    while isinstance(command, click.Group):
        if not arguments or arguments[0].startswith("-"):
            return None
        if arguments[0] not in command.commands:
            return arguments[0]
        command = command.commands[arguments.pop(0)]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    return next((option for option in given if option not in options), None)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    found = [
        f"{program} {call}: {name}"
        for line in commands(page)
        for program, call in CALL.findall(line)
        if (name := misfit(program, words(call))) is not None
    ]
    assert found == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    found = {name for line in commands(page) for name in VARIABLE.findall(line)}
    assert found - {*NAMES, *OTHERS} == set()


def test_the_search_finds_a_name_that_does_not_exist(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`treadle send x --agnt y`\n\n```sh\nPROT=1 make upp\n```\n")
    calls = [found for line in commands(page) for found in CALL.findall(line)]
    assert [misfit(program, words(call)) for program, call in calls] == ["upp", "--agnt"]
    assert [name for line in commands(page) for name in VARIABLE.findall(line)] == ["PROT"]
