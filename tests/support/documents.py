"""The pages of the documentation, and readers for their headings, tables and code blocks."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.repository import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
HTTP = DOCS / "http.md"
AGENTS = sorted(DOCS.glob("agents/*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *ROOT.glob("sql/*.md"), *ROOT.glob("bench/*.md")])

HEADING = re.compile(r"^(#+) (.+)$")


class Block(NamedTuple):
    """A fenced block of a page."""

    heading: str  # the heading above the block
    language: str
    line: int  # number of its first line, from 1
    text: str


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page in order, of one language or of all."""
    found, heading, opened = [], "", None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if opened is None:
                opened = (line[3:].strip(), number)
            else:
                text = "\n".join(lines[opened[1] : number - 1]) + "\n"
                found.append(Block(heading, opened[0], opened[1] + 1, text))
                opened = None
        elif opened is None and (match := HEADING.match(line)):
            heading = match[2]
    assert opened is None, f"{page.name}: the block that starts at {opened} is not closed"
    return [block for block in found if language is None or block.language == language]


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next heading of its level or above."""
    lines, level = [], 0
    for line in page.read_text(encoding="utf-8").splitlines():
        match = HEADING.match(line)
        if match and level and len(match[1]) <= level:
            break
        if match and match[2] == heading:
            level = len(match[1])
        elif level:
            lines.append(line)
    assert level, f"{page.name} has no heading {heading!r}"
    return "\n".join(lines)


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables in a text whose first cell is a `name`: the other cells, by that name."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].startswith("`")}


def headings(page: Path) -> list[str]:
    """The headings of a page; lines inside code blocks do not count."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [match[2] for line in text.splitlines() if (match := HEADING.match(line))]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
