"""The files of `sql/` as text: their functions and views, and the calls in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from service.db.schema import SQL_FOLDER

CREATE = re.compile(r"create or replace (function|view) treadle\.(\w+)")
COMMENT = re.compile(r"comment on (?:function|view) treadle\.(\w+)(?:\([^)]*\))?\s+is '((?:[^']|'')*)'")
STRING = re.compile(r"'(?:[^']|'')*'")
INNERMOST_PARENTHESES = re.compile(r"\([^()]*\)")


class Definition(NamedTuple):
    """A function or a view: `lines` are its text, `start` is the number of its first line, `purpose` one line on what
    it is for: its COMMENT, or else the first sentence of the comment above it."""

    file: str
    name: str
    start: int
    lines: list[str]
    purpose: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.start} {self.name}"

    @property
    def body(self) -> str:
        """The text between the dollars; empty for a view."""
        return "\n".join(self.lines).partition("$$")[2].rpartition("$$")[0]


def sql_files() -> list[Path]:
    return sorted(SQL_FOLDER.glob("*.sql"))


def without_comments(line: str) -> str:
    return re.sub(r"--.*$", "", STRING.sub("''", line)).rstrip()


def definitions(file: Path) -> list[Definition]:
    """The functions and views of a file, in order."""
    lines = file.read_text(encoding="utf-8").splitlines()
    purposes = dict(COMMENT.findall(file.read_text(encoding="utf-8")))
    found = []
    for index, line in enumerate(lines):
        if match := CREATE.match(line):
            end = _end(lines, index, match[1])
            purpose = purposes.get(match[2]) or _sentence_above(lines, index)
            found.append(Definition(file.name, match[2], index + 1, lines[index:end], purpose.replace("''", "'")))
    return found


def clauses_on(line: str) -> list[str]:
    """The words that begin a clause on a line, outside of strings, comments and parentheses that the line closes."""
    text = without_comments(line)
    while INNERMOST_PARENTHESES.search(text):
        text = INNERMOST_PARENTHESES.sub("", text)
    text = re.sub(r"distinct from|delete from|do update|for (no key )?update|on conflict", "", text)
    return re.findall(
        r"\b(select|from|where|join|group by|having|order by|limit|union|returning|update|set)\b",
        text,
    )


def calls(text: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """The calls of functions whose name matches: the name and the arguments as text."""
    plain = re.sub(r"--[^\n]*", "", STRING.sub("''", text))
    for match in re.finditer(rf"({name})\(", plain):
        depth, argument, arguments = 1, "", []
        for character in plain[match.end() :]:
            depth += (character in "([") - (character in ")]")
            if depth == 0:
                break
            if character == "," and depth == 1:
                arguments.append(argument.strip())
                argument = ""
            else:
                argument += character
        yield match[1], [*arguments, argument.strip()] if argument.strip() else arguments


def _end(lines: list[str], start: int, kind: str) -> int:
    """The index after the last line of a definition."""
    last = r"\$\$;$" if kind == "function" else r";$"
    return next(i for i in range(start, len(lines)) if re.search(last, lines[i].rstrip())) + 1


def _sentence_above(lines: list[str], index: int) -> str:
    """The first sentence of the comment right above a line."""
    comment: list[str] = []
    while index > 0 and (match := re.match(r"-- ?(.*)", lines[index - 1])):
        comment.insert(0, match[1])
        index -= 1
    sentence = re.match(r".*?\.(?= |$)", " ".join(comment))
    return sentence[0].rstrip(".") if sentence else " ".join(comment)
