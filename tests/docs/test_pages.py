"""The pages: links and file names are right, pages stay short, code comes early."""

import re
from pathlib import Path

import pytest

from tests.support.documents import AGENTS, DOCS, PAGES, README, anchor, blocks, headings
from tests.support.repository import ROOT

AGENT_PAGE_LINES = 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if fragment:
            assert fragment in map(anchor, headings(file)), f"{page.name} links to {target}, which has no such heading"


def test_the_index_links_to_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [page for page in DOCS.glob("**/*.md") if page.parent.name != "adr" and page != DOCS / "README.md"]
    assert [str(page.relative_to(DOCS)) for page in pages if f"({page.relative_to(DOCS)})" not in index] == []


@pytest.mark.parametrize("page", AGENTS, ids=lambda page: page.name)
def test_a_page_about_agents_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= AGENT_PAGE_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """Paths in code marks, from the root of the repository: `service/batching.py`, `service/worker/`."""
    named = re.findall(
        r"`((?:service|treadle|sql|tests|migrations|examples|faults|docs)/[\w./-]*)`",
        page.read_text(encoding="utf-8"),
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_tests_that_the_recipes_name_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    missing = [
        f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert len(named) > 10
    assert missing == []


def test_code_comes_early_in_the_readme() -> None:
    assert blocks(README)[0].line <= 25
