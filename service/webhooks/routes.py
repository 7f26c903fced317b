"""/webhooks: the endpoints that are told of a tenant's messages, and the secrets that sign what they receive."""

from uuid import UUID

from litestar import Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.access.principal import Principal
from service.config import Settings
from service.errors import Conflict, NotFound, Unprocessable
from service.outbound_filter import AddressRefused, filter_of
from service.refusals import refusals
from service.webhooks.model import (
    ENDS,
    CreatedWebhook,
    Delivery,
    NewWebhook,
    Secret,
    SecretRotation,
    Webhook,
    WebhookChanges,
)
from service.webhooks.store import WebhookStore


@post(
    "/webhooks",
    operation_id="createWebhook",
    scope="admin",
    unrestricted=True,
    status_code=201,
    summary="Create a webhook; the answer is the only one that shows its secret",
    description="Each event that it names is delivered as one signed POST (Standard Webhooks), and tried again over"
    " three days.",
    responses=refusals(Conflict),
)
async def create_webhook(
    data: JSONBody[NewWebhook],
    principal: NamedDependency[Principal],
    webhooks: NamedDependency[WebhookStore],
    settings: NamedDependency[Settings],
) -> CreatedWebhook:
    _check_url(data.url, settings)
    if data.format == "openai" and not set(data.events) <= set(ENDS):
        raise Unprocessable(f"events of the format openai must be a list of {', '.join(ENDS)}.")
    return await webhooks.create(principal.name, principal.tenant, data)


@get(
    "/webhooks",
    operation_id="listWebhooks",
    scope="admin",
    unrestricted=True,
    summary="List the webhooks with their last deliveries, the newest first",
)
async def list_webhooks(
    principal: NamedDependency[Principal], webhooks: NamedDependency[WebhookStore]
) -> list[Webhook]:
    return await webhooks.all(principal.tenant)


@get(
    "/webhooks/callback-secret",
    operation_id="getCallbackSecret",
    scope="admin",
    unrestricted=True,
    summary="Show the secret that signs the callbacks of messages",
    description="It is made when it is first needed. Each look at it leaves a row in the audit.",
)
async def get_callback_secret(principal: NamedDependency[Principal], webhooks: NamedDependency[WebhookStore]) -> Secret:
    return await webhooks.callback_secret(principal.name, principal.tenant)


@post(
    "/webhooks/callback-secret/rotate",
    operation_id="rotateCallbackSecret",
    scope="admin",
    unrestricted=True,
    status_code=200,
    summary="Make another secret that signs the callbacks of messages",
    description="The old secrets sign as well for grace_seconds.",
)
async def rotate_callback_secret(
    data: JSONBody[SecretRotation], principal: NamedDependency[Principal], webhooks: NamedDependency[WebhookStore]
) -> Secret:
    return await webhooks.callback_secret(principal.name, principal.tenant, data.grace_seconds)


@get(
    "/webhooks/{webhook_id:str}",
    operation_id="getWebhook",
    scope="admin",
    unrestricted=True,
    summary="Get a webhook with its last delivery",
    responses=refusals(NotFound),
)
async def get_webhook(
    webhook_id: FromPath[str], principal: NamedDependency[Principal], webhooks: NamedDependency[WebhookStore]
) -> Webhook:
    return await webhooks.get(principal.tenant, _parse(webhook_id))


@patch(
    "/webhooks/{webhook_id:str}",
    operation_id="changeWebhook",
    scope="admin",
    unrestricted=True,
    summary="Change, disable or enable a webhook",
    description="The deliveries that are open when it is disabled fail, and can be redriven once it is enabled.",
    responses=refusals(NotFound, Conflict),
)
async def change_webhook(
    webhook_id: FromPath[str],
    data: JSONBody[WebhookChanges],
    principal: NamedDependency[Principal],
    webhooks: NamedDependency[WebhookStore],
    settings: NamedDependency[Settings],
) -> Webhook:
    if isinstance(data.url, str):
        _check_url(data.url, settings)
    found = _parse(webhook_id)
    await webhooks.change(principal.name, principal.tenant, found, data)
    return await webhooks.get(principal.tenant, found)


@delete(
    "/webhooks/{webhook_id:str}",
    operation_id="deleteWebhook",
    scope="admin",
    unrestricted=True,
    status_code=204,
    summary="Delete a webhook",
    description="Its deliveries that are open fail.",
    responses=refusals(NotFound, Conflict),
)
async def delete_webhook(
    webhook_id: FromPath[str], principal: NamedDependency[Principal], webhooks: NamedDependency[WebhookStore]
) -> None:
    await webhooks.delete(principal.name, principal.tenant, _parse(webhook_id))


@post(
    "/webhooks/{webhook_id:str}/rotate",
    operation_id="rotateWebhook",
    scope="admin",
    unrestricted=True,
    status_code=200,
    summary="Give a webhook another secret",
    description="Until grace_seconds are over, deliveries carry the signatures of both.",
    responses=refusals(NotFound, Conflict),
)
async def rotate_webhook(
    webhook_id: FromPath[str],
    data: JSONBody[SecretRotation],
    principal: NamedDependency[Principal],
    webhooks: NamedDependency[WebhookStore],
) -> Secret:
    return await webhooks.rotate(principal.name, principal.tenant, _parse(webhook_id), data.grace_seconds)


@post(
    "/webhooks/{webhook_id:str}/test",
    operation_id="testWebhook",
    scope="admin",
    unrestricted=True,
    status_code=202,
    summary="Send a webhook an event of the type webhook.test, also while it is disabled",
    description="`GET /messages/{message_id}` shows how the delivery goes.",
    responses=refusals(NotFound, Conflict),
)
async def test_webhook(
    webhook_id: FromPath[str], principal: NamedDependency[Principal], webhooks: NamedDependency[WebhookStore]
) -> Delivery:
    return Delivery(await webhooks.test(principal.name, principal.tenant, _parse(webhook_id)))


router = Router(
    "/",
    route_handlers=[
        create_webhook,
        list_webhooks,
        get_callback_secret,
        rotate_callback_secret,
        get_webhook,
        change_webhook,
        delete_webhook,
        rotate_webhook,
        test_webhook,
    ],
    tags=["Webhooks"],
)


def _check_url(url: str, settings: Settings) -> None:
    """Raises Unprocessable."""
    try:
        filter_of(settings.webhook_networks, http=settings.webhook_http).check_url(url)
    except AddressRefused as error:
        raise Unprocessable(f"url is refused: {error}") from None


def _parse(text: str) -> UUID:
    """Raises NotFound."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no webhook {text[:100]}.") from None
