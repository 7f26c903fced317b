"""What the test modules import: only tests.support is shared."""

import ast
from pathlib import Path

import pytest

from tests.support.repository import ROOT

MODULES = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_the_tests_imports_only_support_from_the_tests(path: Path) -> None:
    """Helpers that two modules use live in tests.support. A test module imports no other one, and no conftest."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            imported.add(node.module or "")
        elif isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
    others = {name for name in imported if name.split(".")[0] == "tests" and not name.startswith("tests.support")}
    assert not others, f"move what it needs of {', '.join(sorted(others))} to tests.support"
