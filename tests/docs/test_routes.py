"""The pages agree with OpenAPI: docs/http.md on the errors of each route, docs/access.md on what each scope opens."""

import re
from typing import Any

from tests.support.api_answers import get
from tests.support.api_client import Client
from tests.support.documents import DOCS, HTTP, anchor, headings, rows, section

METHODS = ("get", "post", "put", "patch", "delete")
ERRORS = re.compile(r"\bErrors:\s((?:\([^)]*\)|[^.(])*)\.(?:\s|$)")
STATUS = re.compile(r"(\d{3})(\s\([^)]*\))?")


# Where the table of scopes names a kind of thing otherwise than its path does.
WORD_OF_KIND = {"stats": "statistics", "tenant": "limits of the tenant"}


async def operations(api: Client) -> dict[str, dict[str, Any]]:
    """By heading: what OpenAPI says of the route."""
    paths = (await get(api, "/openapi.json"))["paths"]
    return {
        f"{method.upper()} {path}": item[method] for path, item in paths.items() for method in METHODS if method in item
    }


def errors(operation: dict[str, Any]) -> set[str]:
    return {status for status in operation["responses"] if status >= "400" and status != "default"}


def common(heading: str, operation: dict[str, Any]) -> set[str]:
    """What the table of common errors says of a route."""
    needs_key = bool(operation["security"])
    asks_database = not operation["operationId"].startswith("stream") and heading != "GET /health/live"
    found = {"422"} | ({"401", "403"} if needs_key else set()) | ({"503"} if asks_database else set())
    if operation.get("parameters"):
        found.add("400")
    return found | ({"400", "413", "415"} if "requestBody" in operation else set())


def listed(heading: str) -> dict[str, str]:
    """The statuses after `Errors:`, each with its explanation in parentheses, or with an empty one."""
    found = ERRORS.findall(section(HTTP, heading))
    assert len(found) <= 1, f"{heading} has two lists of errors"
    return dict(STATUS.findall(found[0])) if found else {}


async def test_each_route_lists_its_errors_beside_the_common_ones(api: Client) -> None:
    for heading, operation in (await operations(api)).items():
        of_all, own = common(heading, operation), listed(heading)
        assert of_all <= errors(operation), heading
        assert errors(operation) - of_all == own.keys() - of_all, heading
        assert all(own[status] for status in own.keys() & of_all), f"{heading} lists a common error without a reason"


async def test_every_error_is_in_the_table_of_errors(api: Client) -> None:
    table = re.findall(r"^\| (\d{3}) \|", section(HTTP, "Rules for all calls"), re.M)
    described = {status for operation in (await operations(api)).values() for status in errors(operation)}
    assert described - set(table) == set()


async def test_the_table_of_scopes_names_what_each_scope_opens(api: Client) -> None:
    table = rows(section(DOCS / "access.md", "Scopes"))
    missing = []
    for heading, operation in (await operations(api)).items():
        for scope in operation["security"][:1] and operation["security"][0]["key"]:
            kind = heading.split("/")[1]
            if WORD_OF_KIND.get(kind, kind) not in table[scope][0].lower():
                missing.append(f"{scope}: {heading}")
    assert missing == []


def test_the_contents_have_every_section() -> None:
    text = HTTP.read_text(encoding="utf-8")
    contents, *_ = text.partition("\n## ")
    sections = [heading for heading in headings(HTTP) if f"\n## {heading}\n" in text]
    assert [heading for heading in sections if f"(#{anchor(heading)})" not in contents] == []
