"""The text of the project is plain English: these words stand nowhere in it.

Read are the pages; docstrings, comments and names of Python code; every sentence in a constant of `service`, because
errors and log lines are among them; SQL with its comments and raise texts; comments of JavaScript and TypeScript; whole
files for builds, deployment and Protocol Buffers.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.documents import PAGES
from tests.support.repository import ROOT

FORBIDDEN_WORDS = (
    "nobody somebody anybody everybody whoever whomever whom anew lest hence whence thence wherein thereof therein "
    "whereupon weave weaves woven weaving"
)
PHRASES = (
    "of its own accord",
    "is none",
    "(?:is|are|held) no more",
    # As the subject or object of a sentence ("who is first waits").
    "(?:what|who) is",
)
# At the beginning of a sentence that is no question.
RIDDLE = r"\b(?:What|Who) (?:is|are|was|were)\b(?=[^?.]*\.(?:\s|[\"'`]|$))"
FORBIDDEN = re.compile(rf"\b(?:(?i:{'|'.join(FORBIDDEN_WORDS.split())})|{'|'.join(PHRASES)})\b|{RIDDLE}")
BETWEEN_PARTS = re.compile(r"""["']\s+[a-z]{0,2}["']""")  # of a text that stands in several literals
PYTHON = "bench examples faults migrations service tests treadle"
PATTERNS = (
    *("sql/*.sql", "migrations/**/*.sql", "proto/**/*.proto", "deploy/**/*.yml", "deploy/**/*.json"),
    *("service/**/static/**/*.js", "clients/typescript/src/*.ts", "examples/**/*.js"),
    *("examples/*/README.md", "examples/*.yaml"),
)
BUILD_FILES = "Makefile Dockerfile docker-compose.yml pyproject.toml .ci/run"


class Text(NamedTuple):
    """A piece of text and the number of its first line."""

    line: int
    text: str


def read_python(source: str, constants: bool) -> Iterator[Text]:
    """The comments, docstrings and names of functions and classes; with `constants` every text in the code as well."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)
    tree = ast.parse(source)
    data = constants_that_are_data(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Text(node.lineno, node.name.replace("_", " "))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and node.body:
            first = node.body[0]
            if not constants and isinstance(first, ast.Expr) and ast.get_docstring(node) is not None:
                yield Text(first.lineno, ast.literal_eval(first.value))
        if constants and isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in data:
            yield Text(node.lineno, node.value)


def constants_that_are_data(tree: ast.AST) -> set[ast.expr]:
    """Constants of one word, such as the name of a system user, and lists of words, which the code splits."""
    found: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value.strip():
            found.add(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split":
            found.add(node.func.value)
    return found


def read_javascript(source: str) -> Iterator[Text]:
    """The comments."""
    for match in re.finditer(r"//[^\n]*|/\*.*?\*/", source, re.S):
        yield Text(source.count("\n", 0, match.start()) + 1, match[0])


def may_have_one(source: str) -> bool:
    """Whether Python code may have a forbidden word, also in a name or across the parts of a text: to parse all files
    takes ten seconds."""
    return bool(FORBIDDEN.search(source.replace("_", " ")) or FORBIDDEN.search(BETWEEN_PARTS.sub("", source)))


def read(file: Path) -> Iterator[Text]:
    """The texts of a file that people read."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".py" and not may_have_one(source):
        return
    if file.suffix == ".py":
        yield from read_python(source, constants=file.is_relative_to(ROOT / "service"))
    elif file.suffix in {".js", ".mjs", ".ts"}:
        yield from read_javascript(source)
    elif file.suffix == ".sql":
        yield Text(1, source.replace("_", " "))
    else:
        yield Text(1, source)


def files() -> Iterator[Path]:
    yield from PAGES
    for folder in PYTHON.split():
        yield from ROOT.glob(f"{folder}/**/*.py")
    for pattern in PATTERNS:
        yield from ROOT.glob(pattern)
    yield from (ROOT / name for name in BUILD_FILES.split())


def found_in(file: Path) -> list[str]:
    """The forbidden words of a file, as `file:line: word`."""
    return [
        f"{file.relative_to(ROOT)}:{line + text.count(chr(10), 0, match.start())}: {match[0]}"
        for line, text in read(file)
        for match in FORBIDDEN.finditer(text)
        if file != Path(__file__)
    ]


def test_no_text_has_a_forbidden_word() -> None:
    found = [word for file in files() for word in found_in(file)]
    assert not found, "\n".join(["Name the actor, in plain words:", *found])


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.py", '"""Asks nobody."""\n'),
        ("a.py", "x = 1\n# who is first, waits\n"),
        ("a.py", "def test_whoever_asks() -> None: ...\n"),
        ("a.sql", "-- what is left\n"),
        ("a.sql", "raise exception 'Nobody has it.';\n"),
        ("a.js", "f(); // told anew\n"),
        ("a.js", "/* there\n   is none */\n"),
        ("a.md", "The lease is no more.\n"),
        ("a.md", "Get the task. What is longer\nthan that is left out.\n"),
    ],
)
def test_the_search_finds_forbidden_words(name: str, source: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(source)
    assert [text for _, text in read(file) if FORBIDDEN.search(text)]


def test_texts_of_the_service_include_errors_and_logs() -> None:
    source = 'raise Rejected(f"There is {name}, lest it wait")\n'
    assert [text for _, text in read_python(source, constants=True) if FORBIDDEN.search(text)]
    assert not [text for _, text in read_python(source, constants=False) if FORBIDDEN.search(text)]


def test_constants_that_are_data_may_hold_forbidden_words() -> None:
    source = 'USER = "nobody"\nWORDS = "who whom whose".split()\n'
    assert not [text for _, text in read_python(source, constants=True) if FORBIDDEN.search(text)]
