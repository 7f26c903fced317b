"""/tenants: list, create, suspend, resume and delete the tenants of the installation."""

from litestar import Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from service.access.principal import Principal
from service.cursors import format_name, parse_name
from service.errors import Conflict, NotFound
from service.limits import PAGE_ITEMS
from service.params import NEXT_PAGE, PageLimit, next_page
from service.refusals import refusals
from service.tenants.model import NewTenant, Tenant, TenantLimits
from service.tenants.store import TenantStore


@get(
    "/tenants",
    operation_id="listTenants",
    scope="admin",
    operators_only=True,
    summary="List the tenants, by name",
    response_headers=[NEXT_PAGE],
)
async def list_tenants(
    tenants: NamedDependency[TenantStore], limit: PageLimit = PAGE_ITEMS, cursor: FromQuery[str | None] = None
) -> Response[list[Tenant]]:
    page, following = await tenants.page(None if cursor is None else parse_name(cursor), limit)
    return Response(page, headers=next_page("/tenants", limit=limit, cursor=following and format_name(following)))


@get(
    "/tenant",
    operation_id="getTenantLimits",
    scope="read",
    unrestricted=True,
    summary="Show the limits of the tenant, and what it used",
)
async def get_tenant_limits(
    principal: NamedDependency[Principal], tenants: NamedDependency[TenantStore]
) -> TenantLimits:
    return await tenants.limits(principal.tenant)


@post(
    "/tenants",
    operation_id="createTenant",
    scope="admin",
    operators_only=True,
    status_code=201,
    summary="Create a tenant",
    responses=refusals(Conflict),
)
async def create_tenant(
    data: JSONBody[NewTenant], principal: NamedDependency[Principal], tenants: NamedDependency[TenantStore]
) -> Tenant:
    return await tenants.create(principal.name, data.tenant)


@post(
    "/tenants/{tenant:str}/suspend",
    operation_id="suspendTenant",
    scope="admin",
    operators_only=True,
    status_code=200,
    summary="Suspend a tenant: it submits nothing, and workers claim nothing of it",
    description="What runs goes on to its end. The tenant can still read, cancel and delete.",
    responses=refusals(NotFound),
)
async def suspend_tenant(
    tenant: FromPath[str], principal: NamedDependency[Principal], tenants: NamedDependency[TenantStore]
) -> Tenant:
    return await tenants.suspend(principal.name, tenant, suspended=True)


@post(
    "/tenants/{tenant:str}/resume",
    operation_id="resumeTenant",
    scope="admin",
    operators_only=True,
    status_code=200,
    summary="Resume a suspended tenant",
    responses=refusals(NotFound),
)
async def resume_tenant(
    tenant: FromPath[str], principal: NamedDependency[Principal], tenants: NamedDependency[TenantStore]
) -> Tenant:
    return await tenants.suspend(principal.name, tenant, suspended=False)


@delete(
    "/tenants/{tenant:str}",
    operation_id="deleteTenant",
    scope="admin",
    operators_only=True,
    status_code=202,
    summary="Delete a tenant with everything that it has",
    description="Its keys end, and it is unknown at once. The workers' janitors then delete its rows bit by bit.",
    responses=refusals(NotFound, Conflict),
)
async def delete_tenant(
    tenant: FromPath[str], principal: NamedDependency[Principal], tenants: NamedDependency[TenantStore]
) -> Tenant:
    await tenants.delete(principal.name, tenant)
    return await tenants.get(tenant)


router = Router(
    "/",
    route_handlers=[get_tenant_limits, list_tenants, create_tenant, suspend_tenant, resume_tenant, delete_tenant],
    tags=["Tenants"],
)
