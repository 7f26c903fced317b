"""The table of what each scope allows, tried on every operation of the OpenAPI description, with every scope."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from service.access.principal import ANY_SCOPE, OPEN_SCOPE, SCOPES
from service.api.app import Api
from service.config import Settings
from service.db.pool import Connection
from tests.support.access import ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi

UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"
NEEDS = {
    "submit": "submitMessage submitMessages answerMessage cancelMessage changeMessage changeThread",
    "read": "getMessage streamMessage listEvents listThreads getThread getThreadUsage listThreadMessages streamThread"
    " listAgents getTenantLimits getMetrics explainMessage listMessages inspectMessage"
    " listTopics getTopic listRecords streamTopic getRecord listSubscriptions getSubscription streamChanges",
    "operate": "redriveMessage deleteThread getOverview listQueues getQueue pauseQueue resumeQueue listDeadLetters"
    " retryMessage dropInstance listInstances listWorkers getStatistics cancelMessages redriveMessages"
    " declareTopic deleteTopic declareSubscription deleteSubscription"
    " pauseSubscription resumeSubscription seekSubscription",
    "publish": "publishRecords",
    "work": "registerWorker claimMessages appendEvents finishMessage sendHeartbeat deregisterWorker"
    " placeMessage placeRecord readHistory readChildren",
    "admin": "createKey listKeys revokeKey rotateKey listAudit listTenants createTenant suspendTenant resumeTenant"
    " deleteTenant createWebhook listWebhooks getWebhook changeWebhook deleteWebhook rotateWebhook testWebhook"
    " getCallbackSecret rotateCallbackSecret",
    ANY_SCOPE: "createToken",
    OPEN_SCOPE: "getStart getHealth getReadiness getLiveness",
}
OPERATORS_ONLY = {
    *("pauseQueue", "resumeQueue", "listWorkers", "getMetrics"),
    *("listTenants", "createTenant", "suspendTenant", "resumeTenant", "deleteTenant"),
}
BODIES: dict[str, Any] = {
    "createKey": {"scopes": ["read"]},
    "createWebhook": {"url": "https://example.com/hook"},
    "createToken": {"subject": "s", "scopes": ["read"]},
    "createTenant": {"tenant": "made"},
}


async def operations(api: Client) -> dict[str, tuple[str, str, list[Any]]]:
    """By operation: method, path with values, and the security that is declared."""
    paths = (await api.get("/openapi.json")).json()["paths"]
    ids = dict.fromkeys(("message_id", "record_id", "webhook_id"), UNKNOWN_ID)
    values = defaultdict(lambda: "missing", ids, thread_id="t")
    return {
        operation["operationId"]: (method.upper(), path.format_map(values), operation["security"])
        for path, item in paths.items()
        for method, operation in item.items()
    }


async def call(api: Client, operation: tuple[str, str, list[Any]], name: str, key: str | None) -> tuple[int, str]:
    method, path, _ = operation
    headers = {} if key is None else bearer(key)
    body = {"json": BODIES.get(name, {})} if method in ("POST", "PUT", "PATCH") else {}
    async with api.stream(method, path, headers=headers, **body) as answer:
        if answer.headers.get("content-type", "").startswith("application/problem"):
            await answer.aread()
            return answer.status_code, answer.json()["detail"]
        return answer.status_code, ""  # a stream does not end by itself


async def test_every_operation_declares_its_scope(closed_api: Client) -> None:
    found = await operations(closed_api)
    needed = {name: scope for scope, names in NEEDS.items() for name in names.split()}
    assert found.keys() == needed.keys()
    for name, scope in needed.items():
        security = found[name][2]
        expected = [] if scope == OPEN_SCOPE else [{"key": [] if scope == ANY_SCOPE else [scope]}]
        assert security[:1] == expected, name
        assert security[1:] == ([{"token": [scope]}] if name.startswith("stream") else []), name


async def test_with_auth_off_the_description_asks_for_no_key(api: Client) -> None:
    assert all(security[-1:] in ([{}], []) for _, _, security in (await operations(api)).values())


def test_every_route_declares_its_scope(settings: Settings) -> None:
    """Also those that the description does not show. Only the routes of this list are open."""
    app = Api(settings, str(settings.database_url)).app
    routes = [route for route in app.routes if route.path != "/schema"]
    handlers = [
        (route.path, handler)
        for route in routes
        for handler in (route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler])
        if getattr(handler, "fn", None) is not None and handler.fn.__module__.startswith("service.")
    ]
    assert [
        path for path, handler in handlers if handler.opt.get("scope") not in {*SCOPES, ANY_SCOPE, OPEN_SCOPE}
    ] == []
    hidden = {
        path
        for path, handler in handlers
        if handler.opt["scope"] == OPEN_SCOPE
        and not (isinstance(handler, HTTPRouteHandler) and handler.resolve_include_in_schema())
    }
    assert hidden == {
        *("/langgraph/info", "/langgraph/ok"),
        *("/chat", "/chat/{name:str}", "/dashboard", "/dashboard/{name:str}", "/docs/{name:str}"),
        *("/.well-known/agent-card.json", "/a2a/.well-known/agent-card.json"),  # without a key it names no agent
    }


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_scope_allows_exactly_its_operations(scope: str, closed_api: Client) -> None:
    """A refused call is 403 and names the scope; an allowed one is anything but 401 and 403."""
    found = await operations(closed_api)
    key = (await create_key(closed_api, scope))["key"]
    needed = {name: needs for needs, names in NEEDS.items() for name in names.split()}

    async def check(name: str) -> None:
        status, detail = await call(closed_api, found[name], name, key)
        if needed[name] in {scope, ANY_SCOPE, OPEN_SCOPE}:
            wanted = 403 if name == "createToken" and scope != "read" else None  # it asks for the scope read
            wanted = 403 if name == "createKey" else wanted  # the same
            assert (status == wanted) if wanted else status not in {401, 403}, (name, status)
        else:
            assert (status, detail) == (403, f"The key or token lacks the scope {needed[name]}."), name

    await asyncio.gather(*(check(name) for name in found))


async def test_without_a_key_only_the_open_operations_answer(closed_api: Client) -> None:
    found = await operations(closed_api)
    for name, operation in found.items():
        status, _ = await call(closed_api, operation, name, None)
        assert (status == 401) == (name not in NEEDS[OPEN_SCOPE].split()), name


async def test_a_tenant_and_a_restricted_key_leave_the_installation_alone(closed_api: Client, sql: Connection) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    found = await operations(closed_api)
    await closed_api.post("/tenants", json={"tenant": "acme"}, headers=bearer(ROOT_KEY))
    for fields in ({"tenant": "acme"}, {"agents": ["echo"]}):
        key = (await create_key(closed_api, *SCOPES, **fields))["key"]
        for name in OPERATORS_ONLY:
            assert (await call(closed_api, found[name], name, key))[0] == 403, name
    status, _ = await call(closed_api, found["pauseQueue"], "pauseQueue", ROOT_KEY)
    assert status == 404  # there is no such queue


async def test_with_auth_off_keys_and_tokens_are_not_read(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    api = await start_api(auth="off")
    for headers in ({}, bearer("nonsense"), bearer(ROOT_KEY), {"Authorization": "Bearer"}):
        assert (await api.get("/threads", headers=headers)).status_code == 200
    message_id = await api.submit("x")
    async with api.stream("GET", f"/messages/{message_id}/stream?token=nonsense") as answer:
        assert answer.status_code == 200
    assert (await api.get("/threads?token=nonsense")).status_code == 422
