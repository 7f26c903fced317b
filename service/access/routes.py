"""/keys, /tokens: create, list, rotate and revoke API keys; create access tokens."""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from service.access.model import CreatedKey, CreatedToken, Key, NewKey, NewToken, Revoked, Rotation
from service.access.principal import ANY_SCOPE, Principal, Scope
from service.access.store import KeyStore
from service.access.tokens import TokenSigner, narrow
from service.cursors import format_position, parse_named_position
from service.errors import Conflict, Forbidden, NotFound
from service.limits import PAGE_ITEMS
from service.params import NEXT_PAGE, PageLimit, next_page
from service.refusals import refusals


@post(
    "/keys",
    operation_id="createKey",
    scope="admin",
    unrestricted=True,
    status_code=201,
    summary="Create an API key; the answer is the only one that shows it",
    description="A key has no scope and no agent that the caller has not. 409: the tenant has 1,000 keys, none of which"
    " has ended.",
    responses=refusals(NotFound, Conflict),
)
async def create_key(
    data: JSONBody[NewKey], principal: NamedDependency[Principal], keys: NamedDependency[KeyStore]
) -> CreatedKey:
    _require_scopes(principal, data.scopes)
    tenant = data.tenant or principal.tenant
    if tenant != principal.tenant and not principal.is_operator:
        raise Forbidden("Only a key of the tenant default may create keys of another tenant.")
    return await keys.create(principal.name, tenant, data)


@get(
    "/keys",
    operation_id="listKeys",
    scope="admin",
    unrestricted=True,
    summary="List the API keys, the newest first",
    response_headers=[NEXT_PAGE],
)
async def list_keys(
    principal: NamedDependency[Principal],
    keys: NamedDependency[KeyStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Key]]:
    before = None if cursor is None else parse_named_position(cursor)
    page, following = await keys.page(_managed_tenant(principal), before, limit)
    return Response(page, headers=next_page("/keys", limit=limit, cursor=following and format_position(following)))


@delete(
    "/keys/{key_id:str}",
    operation_id="revokeKey",
    scope="admin",
    unrestricted=True,
    status_code=200,
    summary="Revoke an API key, with the access tokens that it made",
    description="Every API process knows it within a second, and ends the streams and sockets of the key.",
    responses=refusals(NotFound, Conflict),
)
async def revoke_key(
    key_id: FromPath[str], principal: NamedDependency[Principal], keys: NamedDependency[KeyStore]
) -> Revoked:
    return Revoked(key_id, await keys.revoke(principal.name, _managed_tenant(principal), key_id))


@post(
    "/keys/{key_id:str}/rotate",
    operation_id="rotateKey",
    scope="admin",
    unrestricted=True,
    status_code=200,
    summary="Give an API key another secret",
    description="The old secret stays valid for grace_seconds, and the secret before that one ends. The answer shows"
    " the new secret, so the key must have no scope that the caller has not.",
    responses=refusals(NotFound, Conflict),
)
async def rotate_key(
    key_id: FromPath[str],
    data: JSONBody[Rotation],
    principal: NamedDependency[Principal],
    keys: NamedDependency[KeyStore],
) -> CreatedKey:
    tenant = _managed_tenant(principal)
    found = (await keys.find([key_id])).get(key_id)
    if found is not None and tenant in (None, found.tenant):  # the answer of any other key says that it does not exist
        _require_scopes(principal, found.scopes)
    return await keys.rotate(principal.name, tenant, key_id, data.grace_seconds)


@post(
    "/tokens",
    operation_id="createToken",
    scope=ANY_SCOPE,
    status_code=201,
    summary="Create an access token for a browser",
    description="It is valid for one thread, one message or one subject, with no more rights than the caller has, and"
    " no longer than the caller's key. A token for a thread shows it only while it belongs to the same subject as now.",
)
async def create_token(
    data: JSONBody[NewToken],
    principal: NamedDependency[Principal],
    keys: NamedDependency[KeyStore],
    tokens: NamedDependency[TokenSigner],
) -> CreatedToken:
    narrowed = narrow(principal, data)
    if principal.thread_id is None and narrowed.thread_id is not None and narrowed.subject is None:
        owner = await keys.owner_of_thread(principal, narrowed.thread_id)
        narrowed = msgspec.structs.replace(narrowed, subject=owner)
    assert narrowed.expires_at is not None
    expires_at = datetime.fromtimestamp(narrowed.expires_at, UTC)
    token = await tokens.sign(narrowed)
    target = data.subject or data.thread_id or str(data.message_id)
    await keys.note_token(
        principal, target, {"scopes": data.scopes, "expires_at": expires_at, "only": narrowed.restrictions}
    )
    return CreatedToken(token, expires_at)


router = Router("/", route_handlers=[create_key, list_keys, revoke_key, rotate_key, create_token], tags=["Access"])


def _require_scopes(principal: Principal, scopes: Iterable[Scope]) -> None:
    """The caller receives the key's secret, so it must have all scopes of the key itself. Raises Forbidden."""
    if missing := sorted(set(scopes) - principal.scopes):
        raise Forbidden(f"The key or token lacks the scope {missing[0]}, so it cannot give it to a key.")


def _managed_tenant(principal: Principal) -> str | None:
    """The tenant whose keys it manages; None: all tenants."""
    return None if principal.is_operator else principal.tenant
