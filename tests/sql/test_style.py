"""How SQL is written, and where: functions are short, calls name their arguments, and SQL stands in `sql/` and stores.

The index in sql/README.md is generated: `RENEW_SCHEMA=1 make test ARGS=tests/sql/test_style.py` writes it.
"""

import ast
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from service.db.schema import SQL_FOLDER
from tests.support.repository import ROOT
from tests.support.sql_files import (
    Definition,
    calls,
    clauses_on,
    definitions,
    roles_of_functions,
    sql_files,
)

MAX_COLUMNS = 120
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL_ARGUMENTS = 3
SELECT_ALONE = re.compile(r"\s*(return query )?(select|returning)( distinct)?")
PINNED = "set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off"

README = SQL_FOLDER / "README.md"
INDEX = re.compile(r"(?s)(?<=<!-- index -->\n).*(?=<!-- end of index -->)")


def long_lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [
        f"{file.name}:{number} has {len(line)} columns"
        for number, line in enumerate(lines, 1)
        if len(line) > MAX_COLUMNS
    ]


def long_functions(file: Path) -> list[str]:
    return [
        f"{found.place} has {len(found.lines)} lines"
        for found in definitions(file)
        if found.body and len(found.lines) > MAX_FUNCTION_LINES
    ]


def crowded_lines(file: Path) -> list[str]:
    """Lines with more than one clause. A subquery in parentheses may stand on one line."""
    return [
        f"{found.file}:{found.start + offset} {line.strip()}"
        for found in definitions(file)
        for offset, line in enumerate(found.lines)
        if _is_body(found, offset) and len(clauses_on(line)) > 1
    ]


def columns_below_select(file: Path) -> list[str]:
    """`select` alone on its line, where its first column would fit beside it: that column ends on the next line."""
    return [
        f"{found.file}:{found.start + offset} {following.strip()}"
        for found in definitions(file)
        for offset, (line, following) in enumerate(pairwise(found.lines))
        if SELECT_ALONE.fullmatch(line) and following.endswith(",") and following.count("(") == following.count(")")
    ]


def positional_calls(file: Path) -> list[str]:
    """Calls of inner functions with more than three arguments, of which one has no name."""
    return [
        f"{found.place}: {name}"
        for found in definitions(file)
        for name, arguments in calls(found.body or "\n".join(found.lines), r"treadle\._\w+")
        if len(arguments) > MAX_POSITIONAL_ARGUMENTS and any("=>" not in argument for argument in arguments)
    ]


def open_search_paths(file: Path) -> list[str]:
    """Functions with their owner's rights that do not pin the search path, the time zone and JIT."""
    heads = {found.place: "\n".join(found.lines).partition("$$")[0] for found in definitions(file) if found.body}
    return [place for place, head in heads.items() if "security definer" in head and PINNED not in head]


def unexplained(file: Path) -> list[str]:
    """Functions and views without a purpose: neither a COMMENT nor a comment above them."""
    return [found.place for found in definitions(file) if not found.purpose]


def reads_of_views(file: Path) -> list[str]:
    """Functions that read a view: they would wait for a migration, which locks the views that it applies. From 90 on
    stand the views, and functions that only people call."""
    views = "|".join(found.name for file in sql_files() for found in definitions(file) if not found.body)
    return [
        found.place
        for found in definitions(file)
        if file.name < "90" and re.search(rf"treadle\.({views})\b(?!\()", found.body)
    ]


CHECKS = (
    long_lines,
    long_functions,
    crowded_lines,
    columns_below_select,
    positional_calls,
    open_search_paths,
    unexplained,
    reads_of_views,
)


@pytest.mark.parametrize("check", CHECKS)
def test_sql_follows_the_style(check: Callable[[Path], list[str]]) -> None:
    found = [place for file in sql_files() for place in check(file)]
    assert not found, "\n".join(found)


def test_only_lanes_inbox_and_chores_touch_the_tables_of_pgmq() -> None:
    """Everything else asks the functions of the lanes, which are generated and know their indexes."""
    found = {file.name for file in sql_files() if re.search(r"\bpgmq\.", file.read_text(encoding="utf-8"))}
    lanes = {"20_lanes.sql", "21_lanes_of_tenants.sql", "22_lane_functions.sql"}
    inbox = {"47_publish.sql", "48_sequence.sql"}
    assert {name for name in found if name < "83"} == lanes | inbox


@pytest.mark.parametrize("folder", ["sql", "service", "migrations", "docs"])
def test_the_files_of_sql_that_a_text_names_exist(folder: str) -> None:
    there = {file.name for file in sql_files()}
    texts = [path for ending in ("sql", "py", "md") for path in (ROOT / folder).rglob(f"*.{ending}")]
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in texts
        for name in re.findall(r"\b\d\d_[a-z_]+\.sql\b", path.read_text(encoding="utf-8"))
    }
    assert sorted(place for place in named if place[1] not in there) == []


def test_every_function_stands_in_the_index() -> None:
    found = index()
    text = README.read_text(encoding="utf-8")
    if os.environ.get("RENEW_SCHEMA"):
        README.write_text(INDEX.sub(lambda _: found, text), encoding="utf-8")
    match = INDEX.search(README.read_text(encoding="utf-8"))
    assert match is not None
    assert match[0] == found, "RENEW_SCHEMA=1 make test ARGS=tests/sql/test_style.py writes the index of sql/README.md."


def index() -> str:
    """For each file the rows of its functions and views. Functions of the same name show their first parameter."""
    parts = []
    roles = roles_of_functions()
    for file in sql_files():
        names = Counter(found.name for found in definitions(file))
        rows = [
            f"| `{found.name}{f'({found.first_parameter})' if names[found.name] > 1 else ''}` | {found.purpose} |"
            f" {', '.join(roles.get(found.name, []))} |"
            for found in definitions(file)
        ]
        if rows:
            parts.append(
                "\n".join([f"### {file.name}", "", "| name | purpose | callers |", "| --- | --- | --- |", *rows, ""])
            )
    return "\n" + "\n".join(parts) + "\n"


# SQL in Python

STATEMENT = re.compile(r"(?is)\b(select\b.+\bfrom|insert into|update \w+ set|delete from)\b|\btreadle\.\w+ ?\(")
ALLOWED = re.compile(r"service/(db/.*|.*/store)\.py")


def test_sql_stands_only_in_stores_and_in_the_database_package() -> None:
    found = [
        f"{file}:{line} {text.strip()[:60]}"
        for file in python_files()
        if not ALLOWED.fullmatch(str(file))
        for line, text in strings(file)
        if STATEMENT.search(text)
    ]
    assert not found, "\n".join(found)


def test_stores_call_functions_and_read_views() -> None:
    views = {found.name for file in sql_files() for found in definitions(file) if not found.body}
    found = [
        f"{file}:{line} treadle.{name}"
        for file in python_files()
        if file.name == "store.py"
        for line, text in strings(file)
        for name, follows in re.findall(r"\b(?:treadle|pgmq)\.(\w+)(.?)", text)
        if name not in views and follows != "("
    ]
    assert not found, "\n".join(found)


# Only an operator calls these: their commands connect as the owner of the schema.
OF_OWNER = {"create_sql_role", "drop_sql_role", "sql_roles_of", "declare_queue_size", "declare_tenant_limits"}


def test_a_role_may_call_the_functions_that_stores_call() -> None:
    roles = roles_of_functions()
    found = [
        f"{file}:{line} treadle.{name}"
        for file in python_files()
        if file.name == "store.py"
        for line, text in strings(file)
        for name in re.findall(r"\btreadle\.(\w+)\(", text)
        if not roles.get(name) and name not in OF_OWNER
    ]
    assert not found, "\n".join(["No line of sql/99_grants.sql names these functions:", *found])


def python_files() -> Iterator[Path]:
    return (path.relative_to(ROOT) for path in sorted((ROOT / "service").rglob("*.py")))


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of the string constants of a module, without its docstrings."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


# The checks find what they look for


def test_the_checks_find_breaches(tmp_path: Path) -> None:
    file = tmp_path / "50_x.sql"
    file.write_text(
        "create or replace function treadle.x() returns void\nlanguage plpgsql security definer as $$\nbegin\n"
        "    select a from b;\n    perform treadle._y(1, 2, (select 3), d => 4);\n"
        "    select\n        a, b,\n        c\n    from treadle.queue_counts;\n"
        + "    null;\n" * MAX_FUNCTION_LINES
        + f"    -- {'x' * MAX_COLUMNS}\nend $$;\n"
    )
    for check in CHECKS:
        assert len(check(file)) == 1, check


@pytest.mark.parametrize(
    "line",
    [
        "    where not exists (select from treadle.messages m where m.message_id = any(ids))",
        "    or a is distinct from b",
        "    raise exception 'select x from y';  -- select x from y",
        "    delete from treadle.messages m",
        "    on conflict (name) do update",
        "    for no key update skip locked",
    ],
)
def test_the_checks_give_no_false_alarm(line: str) -> None:
    assert len(clauses_on(line)) <= 1


def _is_body(found: Definition, offset: int) -> bool:
    """Whether a line belongs to a function's body or to a view."""
    return not found.body or "$$" in "\n".join(found.lines[:offset])
