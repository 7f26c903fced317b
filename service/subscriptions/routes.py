"""/subscriptions: who reads which topics, and how far."""

from litestar import Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody

from service.access.principal import Principal
from service.cursors import format_name, parse_name
from service.errors import Conflict, NotFound
from service.limits import PAGE_ITEMS
from service.params import NEXT_PAGE, PageLimit, next_page
from service.refusals import refusals
from service.subscriptions.model import NewPosition, NewSubscription, Subscription
from service.subscriptions.store import SubscriptionStore


@put(
    "/subscriptions/{name:str}",
    operation_id="declareSubscription",
    scope="operate",
    status_code=200,
    summary="Create a subscription, or change it",
    description="Each record of the topics that its patterns match becomes one message for its agent.",
    responses={201: ResponseSpec(Subscription, description="The subscription is created.")} | refusals(Conflict),
)
async def declare_subscription(
    name: FromPath[str],
    data: JSONBody[NewSubscription],
    principal: NamedDependency[Principal],
    subscriptions: NamedDependency[SubscriptionStore],
) -> Response[Subscription]:
    """A repeat changes nothing. A field that is left out gets its default."""
    declared = await subscriptions.declare(principal, name, data)
    return Response(await subscriptions.get(principal, name), status_code=201 if declared == "created" else 200)


@get(
    "/subscriptions",
    operation_id="listSubscriptions",
    scope="read",
    summary="List the subscriptions with their positions and lag, by name",
    response_headers=[NEXT_PAGE],
)
async def list_subscriptions(
    principal: NamedDependency[Principal],
    subscriptions: NamedDependency[SubscriptionStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[Subscription]]:
    page, following = await subscriptions.page(principal, None if cursor is None else parse_name(cursor), limit)
    link = next_page("/subscriptions", limit=limit, cursor=following and format_name(following))
    return Response(page, headers=link)


@get(
    "/subscriptions/{name:str}",
    operation_id="getSubscription",
    scope="read",
    summary="Get a subscription with its positions and lag",
    responses=refusals(NotFound),
)
async def get_subscription(
    name: FromPath[str], principal: NamedDependency[Principal], subscriptions: NamedDependency[SubscriptionStore]
) -> Subscription:
    return await subscriptions.get(principal, name)


@post(
    "/subscriptions/{name:str}/pause",
    operation_id="pauseSubscription",
    scope="operate",
    status_code=200,
    summary="Pause a subscription: nothing more is delivered to it, and its open messages go on",
    responses=refusals(NotFound),
)
async def pause_subscription(
    name: FromPath[str], principal: NamedDependency[Principal], subscriptions: NamedDependency[SubscriptionStore]
) -> Subscription:
    return await subscriptions.pause(principal, name, True)


@post(
    "/subscriptions/{name:str}/resume",
    operation_id="resumeSubscription",
    scope="operate",
    status_code=200,
    summary="Resume a paused subscription where it stopped",
    responses=refusals(NotFound),
)
async def resume_subscription(
    name: FromPath[str], principal: NamedDependency[Principal], subscriptions: NamedDependency[SubscriptionStore]
) -> Subscription:
    return await subscriptions.pause(principal, name, False)


@post(
    "/subscriptions/{name:str}/seek",
    operation_id="seekSubscription",
    scope="operate",
    status_code=200,
    summary="Move a subscription: what lies behind the new place is delivered again",
    responses=refusals(NotFound),
)
async def seek_subscription(
    name: FromPath[str],
    data: JSONBody[NewPosition],
    principal: NamedDependency[Principal],
    subscriptions: NamedDependency[SubscriptionStore],
) -> Subscription:
    return await subscriptions.seek(principal, name, data)


@delete(
    "/subscriptions/{name:str}",
    operation_id="deleteSubscription",
    scope="operate",
    summary="Delete a subscription; its open messages go on",
    responses=refusals(NotFound),
)
async def delete_subscription(
    name: FromPath[str], principal: NamedDependency[Principal], subscriptions: NamedDependency[SubscriptionStore]
) -> None:
    await subscriptions.delete(principal, name)


router = Router(
    "/",
    route_handlers=[
        *(declare_subscription, list_subscriptions, get_subscription, pause_subscription),
        *(resume_subscription, seek_subscription, delete_subscription),
    ],
    tags=["Topics"],
)
