"""No function, class or module is too long to read; tests/sql/test_style.py holds SQL functions to the same."""

import ast
from collections.abc import Iterator

from tests.support.repository import ROOT

FUNCTION_LINES, CLASS_LINES, MODULE_LINES = 60, 270, 350
FOLDERS = ("service", "treadle", "bench", "faults", "tests")
GENERATED = ROOT / "treadle/v1"


def lengths() -> Iterator[tuple[str, int, int]]:
    """Each function, class and module: its name, its lines, and how many it may have."""
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        if path.is_relative_to(GENERATED) or "node_modules" in path.parts:
            continue
        source, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        yield str(place), source.count("\n"), MODULE_LINES
        if place.parts[0] == "tests":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
                yield f"{place}: {node.name}", (node.end_lineno or 0) - node.lineno + 1, limit


def test_no_code_is_too_long_to_read() -> None:
    found = list(lengths())
    assert len(found) > 5000
    assert [f"{name} has {lines} lines, at most {most}" for name, lines, most in found if lines > most] == []
