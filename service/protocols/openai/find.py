"""Finds what an id of the dialect names."""

from service.access.principal import Principal
from service.errors import NotFound
from service.events.answers import is_question
from service.protocols.openai.begin import Begun
from service.protocols.openai.ids import parse_response
from service.protocols.openai.services import OpenAIServices


async def find_response(services: OpenAIServices, principal: Principal, text: str) -> Begun:
    """Raises NotFound."""
    response_id = parse_response(text)
    message = await services.message(principal, response_id.message_id)
    if response_id.after:
        seen = []
        async for entry in services.follower.read(response_id.message_id, response_id.after - 1):
            seen.append(entry)
            if len(seen) == 2:
                break
        if len(seen) < 2 or not is_question(seen[0]):
            raise NotFound(f"There is no response {text!r}.")
    return Begun(response_id, message)
