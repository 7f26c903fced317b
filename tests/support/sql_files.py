"""The files of `sql/` as text: their functions and views, and the calls in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from service.db.schema import SQL_FOLDER

CREATE = re.compile(r"create or replace (function|view) treadle\.(\w+)")
FIRST_PARAMETER = re.compile(r"\(\s*(?:(?:in|out) )?(\w+ [\w.]+(?:\[\])?)")
COMMENT = re.compile(r"comment on (?:function|view) treadle\.(\w+)(?:\(([\w.\[\]]*)[^)]*\))?\s+is '((?:[^']|'')*)'")
STRING = re.compile(r"'(?:[^']|'')*'")
INNERMOST_PARENTHESES = re.compile(r"\([^()]*\)")


class Definition(NamedTuple):
    """A function or a view: `lines` are its text, `start` is the number of its first line, `purpose` one line on what
    it is for: its COMMENT, or else the first sentence of the comment above it."""

    file: str
    name: str
    first_parameter: str  # name and type; empty without one
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


def roles_of_functions() -> dict[str, list[str]]:
    """The roles that may call each function, as the list in 99_grants.sql says."""
    text = (SQL_FOLDER / "99_grants.sql").read_text(encoding="utf-8")
    listed = text.partition("c_functions constant text := '")[2].partition("'")[0]
    return {name: roles for name, *roles in filter(None, map(str.split, listed.splitlines()))}


def without_comments(line: str) -> str:
    return re.sub(r"--.*$", "", STRING.sub("''", line)).rstrip()


def definitions(file: Path) -> list[Definition]:
    """The functions and views of a file, in order."""
    lines = file.read_text(encoding="utf-8").splitlines()
    # By name and type of the first parameter, where the COMMENT says it.
    purposes = {(name, type_): text for name, type_, text in COMMENT.findall(file.read_text(encoding="utf-8"))}
    found = []
    for index, line in enumerate(lines):
        if match := CREATE.match(line):
            end = _end(lines, index, match[1])
            parameter = FIRST_PARAMETER.match("\n".join(lines[index:end])[match.end() :])
            first_parameter = parameter[1] if parameter else ""
            purpose = (
                purposes.get((match[2], first_parameter.rpartition(" ")[2]))
                or purposes.get((match[2], ""))
                or _sentence_above(lines, index)
            )
            found.append(
                Definition(
                    file=file.name,
                    name=match[2],
                    first_parameter=first_parameter,
                    start=index + 1,
                    lines=lines[index:end],
                    purpose=purpose.replace("''", "'"),
                )
            )
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
