"""Where code switches a check off, it says why, in the same line."""

import re

import pytest

from tests.support.repository import ROOT

FOLDERS = ("service", "treadle", "bench", "faults", "examples", "migrations")
WITHOUT_REASON = re.compile(r"#\s*(?:type: ignore(?:\[[^]]*\])?|noqa(?:: ?[A-Z0-9, ]+)?|pragma: no cover)\s*$")


def test_a_check_that_is_switched_off_has_its_reason() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WITHOUT_REASON.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("x = 1  # type: ignore[misc]", True),
        ("x = 1  # noqa: E501", True),
        ("x = 1  # type: ignore[misc]  # of a stub that is wrong", False),
        ("x = 1  # noqa: E501 - a long address", False),
    ],
)
def test_the_search_finds_a_check_without_its_reason(line: str, is_found: bool) -> None:
    assert bool(WITHOUT_REASON.search(line)) is is_found
