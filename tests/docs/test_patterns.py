"""Every regular expression of the service reads characters of its own kinds in linear time.

A pattern that tries again from each place holds the GIL for minutes, and with it everything that the process does.
"""

import ast
import re
import time
from collections.abc import Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from tests.support.repository import ROOT

FEW_CHARS, TIMES_AS_MANY = 500, 8
MOST_TIMES_AS_LONG = 3 * TIMES_AS_MANY  # a linear pattern takes 8 times as long, a quadratic one 64 times
SEARCHES = ((1, 1), (80, 10), (80, 10), (80, 10))  # of the short and of the long text, in each measurement
CATEGORIES = {"CATEGORY_SPACE": " \n", "CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_NOT_SPACE": "x"}


def patterns() -> list[str]:
    """The constant patterns in calls of `re`, and the constants whose name ends with PATTERN."""
    found = set()
    for file in (ROOT / "service").rglob("*.py"):
        source = file.read_text()
        for node in ast.walk(ast.parse(source)) if "import re\n" in source or "PATTERN" in source else ():
            match node:
                case ast.Call(ast.Attribute(ast.Name("re")), [first, *_]):
                    found |= _constant(first)
                case ast.Assign([ast.Name(name)], value) if name.endswith("PATTERN"):
                    found |= _constant(value)
    return sorted(found)


def _constant(node: ast.expr) -> set[str]:
    if isinstance(node, ast.JoinedStr):  # a word stands for each field
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "8" for part in node.values)
        return {text}
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return {node.value if isinstance(node.value, str) else node.value.decode("latin-1")}
    return set()


def _pieces(tree: Any) -> Iterator[str]:
    """Characters that the pattern's classes match, and its runs of literals."""
    run = ""
    for code, argument in tree:
        if code is codes.LITERAL:
            run += chr(argument)
            continue
        if run:
            yield run
            run = ""
        if code is codes.IN:
            yield from _members(argument)
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            yield from _pieces(argument[2])
        elif code is codes.SUBPATTERN:
            yield from _pieces(argument[3])
        elif code is codes.BRANCH:
            for branch in argument[1]:
                yield from _pieces(branch)
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            yield from _pieces(argument[1])
        elif code in (codes.ANY, codes.NOT_LITERAL):
            yield "x"
    if run:
        yield run


def _members(members: Any) -> Iterator[str]:
    for code, argument in members:
        if code is codes.LITERAL:
            yield chr(argument)
        elif code is codes.RANGE:
            yield chr(argument[0])
        elif code is codes.CATEGORY:
            yield from CATEGORIES.get(str(argument), "x")
        elif code is codes.NEGATE:
            yield "x"


def texts(pattern: str, chars: int) -> Iterator[str]:
    pieces = sorted({*_pieces(parser.parse(pattern)), " ", "\n", "x"})
    for first in pieces:
        yield first * (chars // len(first))
        yield first * (chars // len(first)) + "\x00"
        for second in pieces:
            yield (first + second) * (chars // len(first + second))
            yield first + second * (chars // len(second)) + "\x00"


def cpu_seconds(pattern: re.Pattern[str], text: str, *, searches: int = 1) -> float:
    began = time.thread_time()
    for _ in range(searches):
        pattern.findall(text)
    return (time.thread_time() - began) / searches


def growth(pattern: re.Pattern[str], short: str, long: str) -> float:
    """How many times as long the long text takes; measured again while it seems too long, and over more searches, since
    the clock of a thread is too coarse for one search of the short text."""
    found = float("inf")
    for of_short, of_long in SEARCHES:
        short_seconds = cpu_seconds(pattern, short, searches=of_short)
        found = min(found, cpu_seconds(pattern, long, searches=of_long) / max(short_seconds, 1e-9))
        if found < MOST_TIMES_AS_LONG:
            break
    return found


@pytest.mark.parametrize("pattern", patterns())
def test_a_pattern_is_linear(pattern: str) -> None:
    compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for short, long in zip(texts(pattern, FEW_CHARS), texts(pattern, FEW_CHARS * TIMES_AS_MANY), strict=True):
        assert growth(compiled, short, long) < MOST_TIMES_AS_LONG, repr(short[:40])


def test_the_check_finds_a_quadratic_pattern() -> None:
    with pytest.raises(AssertionError):
        test_a_pattern_is_linear(r"^\s*(?:[-*]|\d{1,2}[.)])\s+(\S.*)$")
