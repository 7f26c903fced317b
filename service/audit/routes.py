"""/audit: who did what."""

from datetime import datetime
from typing import Annotated

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from service.access.principal import Principal
from service.audit.model import AuditPage
from service.audit.store import AuditStore
from service.cursors import format_position, parse_position
from service.errors import Forbidden
from service.limits import PAGE_ITEMS
from service.params import PageLimit, parse_time

Since = Annotated[str | None, QueryParameter(description="A time (RFC 3339): no act before it is listed.")]
Tenant = Annotated[str | None, QueryParameter(min_length=1, description="the name of a tenant")]


@get(
    "/audit",
    operation_id="listAudit",
    scope="admin",
    unrestricted=True,
    summary="List who changed access, or stopped, repeated or deleted work",
    description="The newest first, of the caller's tenant. A caller of the tenant default sees those of all tenants, or"
    " of the one that it names.",
)
async def list_audit(
    principal: NamedDependency[Principal],
    audit: NamedDependency[AuditStore],
    tenant: Tenant = None,
    since: Since = None,
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> AuditPage:
    if not principal.is_operator:
        if tenant not in (None, principal.tenant):
            raise Forbidden("Only a key of the tenant default may read the audit of another tenant.")
        tenant = principal.tenant
    begin: datetime | None = None if since is None else parse_time(since, "since")
    before = None if cursor is None else parse_position(cursor)
    acts, following = await audit.page(tenant, since=begin, before=before, limit=limit)
    return AuditPage(acts, None if following is None else format_position(following))


router = Router("/", route_handlers=[list_audit], tags=["Access"])
