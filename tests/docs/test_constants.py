"""A constant that is a number says in its name what it counts: a noun and its unit or kind, not one word."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.repository import ROOT

FOLDERS = ("service", "treadle", "bench", "faults")
GENERATED = ROOT / "treadle/v1"
ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)


def is_number(value: ast.expr) -> bool:
    """Whether it is a number, or computed from at least one."""
    leaves = [node for node in ast.walk(value) if not isinstance(node, ARITHMETIC)]
    numbers = [node for node in leaves if isinstance(node, ast.Constant) and type(node.value) in {int, float}]
    return bool(numbers) and all(node in numbers or isinstance(node, ast.Name) for node in leaves)


def numbers(source: str) -> Iterator[tuple[int, str]]:
    """Each constant of a module that is a number: its line and its name."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign):
            targets: list[ast.expr] = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        for target in targets:
            pairs: list[tuple[ast.expr, ast.expr | None]] = [(target, statement.value)]
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = list(zip(target.elts, statement.value.elts, strict=True))
            for name, value in pairs:
                if isinstance(name, ast.Name) and name.id.isupper() and value is not None and is_number(value):
                    yield statement.lineno, name.id


def test_a_number_has_at_least_two_words_in_its_name() -> None:
    found = [
        (f"{path.relative_to(ROOT)}:{line}: {name}", name)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(GENERATED)
        for line, name in numbers(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 500
    assert [place for place, name in found if "_" not in name.strip("_")] == []


@pytest.mark.parametrize("line", ["ROOM = 1.3", "_WEEK: int = 7 * DAY_SECONDS", "LOST = -1", "A, B_SECONDS = 1, 2"])
def test_the_search_finds_a_number(line: str) -> None:
    ((_line, name), *_others) = numbers(line)
    assert "_" not in name.strip("_")


@pytest.mark.parametrize("line", ["T = TypeVar('T')", "SCOPES = ('a', 'b')", "ALL = SOME | OTHERS", "IS_ON = True"])
def test_the_search_passes_over_other_values(line: str) -> None:
    assert list(numbers(line)) == []
