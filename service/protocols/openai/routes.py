"""/v1: the APIs of OpenAI."""

from litestar import Router

from service.protocols.openai import completions, conversations, models, responses, socket
from service.protocols.openai.errors import HANDLERS

router = Router(
    "/v1",
    route_handlers=[
        *responses.HANDLERS,
        *conversations.HANDLERS,
        *completions.HANDLERS,
        *models.HANDLERS,
        *socket.HANDLERS,
    ],
    exception_handlers=HANDLERS,
    include_in_schema=False,
)
