"""The pages: links lead somewhere, code comes early."""

import re
from pathlib import Path

import pytest

from tests.support.documents import PAGES, README, anchor, blocks, headings
from tests.support.repository import ROOT


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


def test_code_comes_early_in_the_readme() -> None:
    assert blocks(README)[0].line <= 25
