"""The types of the fixtures that start something."""

from collections.abc import Awaitable, Callable

from service.worker.worker import Worker
from tests.support.api_client import Client

StartApi = Callable[..., Awaitable[Client]]
StartWorker = Callable[..., Awaitable[Worker]]
RegisterAgents = Callable[..., Awaitable[None]]
