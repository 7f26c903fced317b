"""Push notifications: the addresses at which the client of a task wants to be told of it, by signed POSTs."""

from uuid import UUID

from service.access.authenticator import require
from service.outbound_filter import AddressRefused, filter_of
from service.protocols.a2a.errors import InvalidParams, PushNotificationNotSupported, TaskNotFound
from service.protocols.a2a.model import ConfigParams, ConfigsParams, Json, PushConfig
from service.protocols.a2a.services import A2AServices, Caller
from service.webhooks.model import PushAddress

NO_PUSH = "No worker of this server delivers push notifications; subscribe to the task instead."


async def create(services: A2AServices, caller: Caller, config: PushConfig) -> Json:
    """Or replace, where there is one of this id. Raises TaskNotFound, PushNotificationNotSupported, InvalidParams,
    Forbidden."""
    require(caller.principal, "submit")
    message = await services.message(caller, config.task_id or "")
    await check(services, config)
    return await attach(services, caller, message.message_id, config)


async def check(services: A2AServices, config: PushConfig) -> None:
    """Raises PushNotificationNotSupported, InvalidParams."""
    settings = services.settings
    try:
        filter_of(settings.webhook_networks, http=settings.webhook_http).check_url(config.url)
    except AddressRefused as error:
        raise InvalidParams(f"url is refused: {error}") from None
    if not await services.push.is_offered():
        raise PushNotificationNotSupported(NO_PUSH)


async def attach(services: A2AServices, caller: Caller, message_id: UUID, config: PushConfig) -> Json:
    """The configuration, which was checked. Raises NotFound, Refused."""
    given = config.authentication
    address = PushAddress(
        config.id or str(message_id),  # as servers made with the SDK name it
        config.url,
        config.token or None,
        (given and given.scheme) or None,
        (given and given.credentials) or None,
    )
    await services.push.set(caller.principal, message_id, address)
    return _json(message_id, address)


async def get(services: A2AServices, caller: Caller, params: ConfigParams) -> Json:
    """Raises TaskNotFound, Forbidden."""
    for config in (await list_configs(services, caller, ConfigsParams(params.task_id)))["configs"]:
        if config["id"] == params.id:
            found: Json = config
            return found
    raise TaskNotFound(f"The task has no configuration {params.id[:100]!r} of push notifications.")


async def list_configs(services: A2AServices, caller: Caller, params: ConfigsParams) -> Json:
    """All of them: there are a few. Raises TaskNotFound, Forbidden."""
    require(caller.principal, "submit")  # they have secrets
    message = await services.message(caller, params.task_id)
    addresses = await services.push.all(caller.principal, message.message_id)
    return {"configs": [_json(message.message_id, address) for address in addresses], "nextPageToken": ""}


async def delete(services: A2AServices, caller: Caller, params: ConfigParams) -> Json:
    """Raises TaskNotFound, Forbidden."""
    require(caller.principal, "submit")
    message = await services.message(caller, params.task_id)
    if "\0" not in params.id:  # PostgreSQL has no such text
        await services.push.delete(caller.principal, message.message_id, params.id)
    return {}


def _json(message_id: UUID, address: PushAddress) -> Json:
    """Without the credentials."""
    found: Json = {"taskId": str(message_id), "id": address.config_id, "url": address.url}
    if address.token:
        found["token"] = address.token
    if address.scheme:
        found["authentication"] = {"scheme": address.scheme}
    return found
