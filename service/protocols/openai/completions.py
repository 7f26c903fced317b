"""/v1/chat/completions."""

from litestar import Response
from litestar.params import JSONBody

from service.access.authenticator import require
from service.params import IdempotencyKey
from service.protocols.openai.begin import begin_completion
from service.protocols.openai.calls import Answer, Caller, Services, post
from service.protocols.openai.errors import carried_out
from service.protocols.openai.model import NewCompletion
from service.protocols.openai.streams import CompletionReader
from service.streams import sse


@post("/chat/completions", scope="submit", stays_open=True)
async def create_completion(
    data: JSONBody[NewCompletion], principal: Caller, openai: Services, idempotency_key: IdempotencyKey = None
) -> Answer:
    require(principal, "read")
    begun = await begin_completion(openai, principal, data, idempotency_key)
    wants_usage = bool((data.stream_options or {}).get("include_usage"))
    reader = CompletionReader(openai, principal, begun, wants_usage=wants_usage)
    if data.stream:
        return sse(reader.events())
    with carried_out(begun.response_id, is_repeatable=begun.is_repeatable):
        return Response(await reader.whole())


HANDLERS = [create_completion]
