"""The lists in the docs (settings, routes, events, views, commands, warnings, decisions) name what the code has."""

import ast
import importlib
import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import msgspec
import pytest
from litestar import Response, Router
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute, WebSocketRoute

from service import config
from service.access.principal import OPEN_SCOPE
from service.api import pools
from service.api.app import ROUTERS, Api
from service.cli import main
from service.cli.plan import HEARTBEAT_CONNECTIONS, LISTENER_CONNECTIONS
from service.cli.wiring import WORKER_CONNECTIONS
from service.config import Settings
from service.db.pool import Connection
from service.db.schema import SQL_FOLDER
from service.events.model import RESERVED_TYPES
from service.protocols.a2a import routes as a2a
from service.protocols.agui import routes as agui
from service.protocols.langgraph import routes as langgraph_api
from service.protocols.mcp import routes as mcp
from service.protocols.openai import routes as openai_api
from service.protocols.schema_registry import routes as schema_registry
from tests.support.documents import DOCS, HTTP, PAGES, README, Block, blocks, headings, rows, section
from tests.support.repository import ROOT

METHODS = "GET|POST|PUT|PATCH|DELETE"
HANDLER = re.compile(r"^@(get|post|put|patch|delete|websocket)\(", re.M)
# Dialects have pages of their own and no description in OpenAPI.
DIALECTS = tuple(
    f"service.protocols.{name}." for name in ("schema_registry", "openai", "langgraph", "mcp", "agui", "a2a")
)

OF_DIALECTS = {DOCS / "types.md", *DOCS.glob("clients/*.md")}
NATIVE = [page for page in PAGES if page not in OF_DIALECTS]


def shown(value: Any) -> str:
    """A default, as the configuration table writes it."""
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_configuration_table_has_every_setting_with_its_default() -> None:
    table = rows(section(README, "Configuration"))
    documented = {name: cells[0] for name, cells in table.items()}
    fields = msgspec.structs.fields(Settings)
    assert documented == {field.name.upper(): shown(field.default) for field in fields}
    assert all(cells[-1] for cells in table.values())


def test_the_example_of_an_env_file_has_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", text, re.M))
    settings, others = text.split("# --- Others")
    assert "POSTGRES_PASSWORD" in others
    fields = msgspec.structs.fields(Settings)
    defaults = {field.name.upper(): "" if field.default in (None, ()) else shown(field.default) for field in fields}
    assert {name: value for name, value in listed.items() if f"# {name}=" in settings} == defaults
    assert config.load(listed) == Settings()
    assert all(line.startswith("#") or not line for line in text.splitlines())


def numbers(pattern: str, text: str) -> tuple[int, ...]:
    """The groups of the one place in a page where this is written, in whatever lines."""
    [found] = re.findall(pattern.replace(" ", r"\s+"), text)
    return tuple(map(int, found))


def test_the_pages_say_how_many_connections_each_process_opens() -> None:
    api, worker = pools.MOST_CONNECTIONS + LISTENER_CONNECTIONS, WORKER_CONNECTIONS + HEARTBEAT_CONNECTIONS
    assert numbers(
        r"an API opens up to (\d+), a worker up to (\d+), and its stand-in (\d+)", section(README, "Scaling")
    ) == (api, worker, 1)
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    in_compose = r"Each API opens up to (\d+) connections, each worker up to (\d+), and its stand-in (\d+)"
    assert numbers(in_compose, compose) == (api, worker, 1)
    text = section(DOCS / "operations.md", "Scaling")
    kinds = r"up to (\d+) for calls and streams, (\d+) for single messages \(one tenant takes at most (\d+)\),"
    kinds += r" (\d+) for lists"
    others = r"(\d+) for `/health`, (\d+) for remote workers, (\d+) for changes of topics, keys and the like,"
    others += r" (\d+) for the begin of streams, (\d+) for checks of keys, and (\d+) for LISTEN: (\d+) in all"
    assert numbers(kinds, text) == (
        pools.CALL_CONNECTIONS,
        pools.READ_CONNECTIONS,
        pools.READS_OF_TENANT,
        pools.LIST_CONNECTIONS,
    )
    sizes = (pools.HEALTH_CONNECTIONS, pools.WORK_CONNECTIONS, pools.CHANGE_CONNECTIONS, pools.STREAM_CONNECTIONS)
    assert numbers(others, text) == (*sizes, pools.KEY_CONNECTIONS, LISTENER_CONNECTIONS, api)
    of_worker = (
        r"A worker opens up to (\d+), (\d+) for its heartbeat and (\d+) for LISTEN: (\d+) in all."
        r" Its stand-in opens (\d+)"
    )
    assert numbers(of_worker, text) == (WORKER_CONNECTIONS, 1, LISTENER_CONNECTIONS, worker, HEARTBEAT_CONNECTIONS - 1)


def handlers() -> set[BaseRouteHandler]:
    """The handlers that the API serves."""
    return {
        handler
        for router in ROUTERS
        for route in router.routes
        for handler in getattr(route, "route_handlers", None) or [cast("WebSocketRoute", route).route_handler]
        if handler.fn.__module__.startswith("service.")
    }


def routes() -> dict[str, Any]:
    """Every route, as `METHOD /path/{parameter}`, with its handler."""
    return {
        f"{method} {re.sub(r':[a-z]+}', '}', path)}": handler
        for handler in handlers()
        if isinstance(handler, HTTPRouteHandler) and not handler.fn.__module__.startswith(DIALECTS)
        for method in handler.http_methods - {"OPTIONS"}
        for path in handler.paths
    }


@pytest.mark.parametrize(
    ("router", "page", "heading"),
    [
        (schema_registry.router, "types.md", "The calls of the registry"),
        (openai_api.router, "clients/openai.md", "The calls"),
        (langgraph_api.router, "clients/langgraph.md", "The calls"),
        (mcp.router, "clients/mcp.md", "The calls"),
        (agui.router, "clients/ag-ui.md", "The calls"),
        (a2a.router, "clients/a2a.md", "The calls"),
    ],
)
def test_the_calls_of_a_dialect_are_listed(router: Router, page: str, heading: str) -> None:
    served = {
        f"{method} {re.sub(r':[a-z]+}', '}', route.path.removeprefix(router.path)) or '/'}"
        for route in router.routes
        for method in getattr(route, "methods", set()) - {"OPTIONS"}
    }
    listed = {
        f"{method} {path}"
        for methods, path in re.findall(
            rf"`((?:{METHODS})(?:, (?:{METHODS}))*) (/[^`]*)`", section(DOCS / page, heading)
        )
        for method in methods.split(", ")
    }
    assert sorted(listed) == sorted(served)


def test_every_handler_is_served() -> None:
    """A handler that a module defines is part of a router of app.py; OpenAPI serves its own files."""
    files = [path for path in ROOT.glob("service/**/*.py") if HANDLER.search(path.read_text(encoding="utf-8"))]
    files.remove(ROOT / "service/api/openapi.py")
    modules = [path.relative_to(ROOT).with_suffix("") for path in files]
    defined = {
        handler.fn
        for module in modules
        for handler in vars(importlib.import_module(".".join(module.parts))).values()
        if isinstance(handler, BaseRouteHandler)
    }
    assert len(defined) > 20
    assert defined - {handler.fn for handler in handlers()} == set()


def test_every_route_has_its_heading() -> None:
    documented = [heading for heading in headings(HTTP) if re.match(rf"({METHODS}) /", heading)]
    assert sorted(documented) == sorted(routes())


@pytest.mark.parametrize("page", NATIVE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_routes_that_a_page_names_exist(page: Path) -> None:
    """Pages of dialects name those of the dialect."""
    named = re.findall(rf"`((?:{METHODS}) /[^`?\s]*)[`?]", page.read_text(encoding="utf-8"))
    assert [route for route in named if route not in routes()] == []


def test_the_readme_lists_every_route() -> None:
    listed = re.findall(rf"`((?:{METHODS}) /[^`]*)`", section(README, "HTTP"))
    assert sorted(listed) == sorted(routes())


@pytest.mark.parametrize("block", blocks(HTTP, "json"), ids=lambda block: block.heading)
def test_a_json_example_has_the_fields_of_the_answer(block: Block) -> None:
    answer = typing.get_type_hints(routes()[block.heading].fn)["return"]
    if typing.get_origin(answer) is Response:
        [answer] = typing.get_args(answer)
    example, written = msgspec.json.decode(block.text, type=answer), msgspec.json.decode(block.text)
    if not isinstance(example, list):
        example, written = [example], [written]
    assert example
    for item, fields in zip(example, written, strict=True):
        assert set(fields) == set(item.__struct_fields__)


def test_the_page_about_keys_names_all_that_needs_none() -> None:
    opening, *_ = (DOCS / "access.md").read_text(encoding="utf-8").partition("Everything else needs a key")
    named = set(re.findall(r"`(/[^`]*)`", opening))
    app = Api(Settings(), "postgresql://localhost/none").app
    opened = {
        route.path
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.opt.get("scope") == OPEN_SCOPE
    }
    assert {
        path for path in opened if path not in named and not path.startswith(tuple(f"{n}/" for n in named - {"/"}))
    } == set()
    assert {name for name in named if not any(path == name or path.startswith(f"{name}/") for path in opened)} == set()


def test_every_event_of_the_service_is_documented() -> None:
    table = rows(section(HTTP, "Streams"))
    assert set(table) == RESERVED_TYPES


def test_the_head_of_the_log_lists_every_stored_event() -> None:
    head, *_ = (SQL_FOLDER / "30_log.sql").read_text(encoding="utf-8").partition("\n\n")
    assert RESERVED_TYPES - {"waiting", "gap", "unauthorized"} - set(re.findall(r"\w+", head)) == set()


async def test_every_view_is_in_the_tour(sql: Connection) -> None:
    [listed] = re.findall(r"^The views:.*?\n\n", (DOCS / "sql.md").read_text(encoding="utf-8"), re.M | re.S)
    views = await sql.fetch(r"select viewname from pg_views where schemaname = 'treadle' and viewname not like '\_%'")
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(row["viewname"] for row in views)


def test_the_warnings_worth_an_alert_are_logged() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    [listed] = re.findall(r"^.*?Warnings worth an alert:(.*?)\n\n", text, re.M | re.S)
    code = " ".join(page.read_text(encoding="utf-8") for page in ROOT.glob("service/**/*.py"))
    warnings = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", listed)]
    assert [words for words in warnings if words not in code] == []
    assert len(warnings) > 5


def test_the_checks_of_the_fault_suite_are_documented() -> None:
    """By the names under which a run of the suite reports them."""
    tree = ast.parse((ROOT / "faults/checker.py").read_text(encoding="utf-8"))
    [check] = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "check"]
    checks = next(node for node in ast.walk(check) if isinstance(node, ast.Dict))
    names = [key.value for key in checks.keys if isinstance(key, ast.Constant)]
    assert list(rows(section(DOCS / "reliability.md", "How they are tested"))) == names
    assert len(names) > 10


def commands(group: click.Group, prefix: str = "treadle") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{prefix} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


def test_every_command_is_mentioned() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [command for command in commands(main) if command not in text] == []


def test_the_architecture_page_names_every_package_and_module_of_the_service() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = {f"`service/{path.parent.name}/`" for path in ROOT.glob("service/*/__init__.py")}
    protocols = {f"`service/protocols/{path.parent.name}/`" for path in ROOT.glob("service/protocols/*/__init__.py")}
    modules = {f"`{path.stem}`" for path in ROOT.glob("service/*.py") if path.stem != "__init__"}
    assert len(packages) > 20
    assert sorted(name for name in packages | protocols | modules if name not in text) == []


def test_the_architecture_page_has_the_layers_that_import_linter_checks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages, *_ = project["tool"]["importlinter"]["contracts"]
    layers = [re.sub(r"[()]", "", layer).split(" | ") for layer in packages["layers"]]
    [block] = [block for block in blocks(DOCS / "architecture.md", "") if block.text.startswith("cli\n")]
    assert [line.split(", ") for line in block.text.splitlines()] == layers


def test_every_decision_is_listed() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for page in DOCS.glob("adr/*.md"):
        [title, *sections] = headings(page)
        assert f"[{title}](adr/{page.name})" in text
        assert sections == ["Context", "Decision", "Consequences"]


def test_the_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert any(heading.split()[0] == version for heading in headings(ROOT / "CHANGELOG.md"))


AUDITED = "key|token|tenant|sql_role|message|thread|webhook|callback_secret|queue|schema|topic|subscription"
EVENTS = {f"message.{end}" for end in ("completed", "failed", "cancelled", "input_required")}
EVENTS.add("subscription.dead_lettered")  # of webhooks


def test_the_table_of_the_audit_has_every_act() -> None:
    files = [path.read_text(encoding="utf-8") for path in SQL_FOLDER.glob("*.sql")]
    written = {act for text in files for act in re.findall(rf"'((?:{AUDITED})\.[a-z_]+)'", text)}
    table = [line for line in section(DOCS / "access.md", "The audit").splitlines() if line.startswith("| a")]
    assert set(re.findall(r"`(\S+\.\S+)`", "".join(table))) == written - EVENTS
