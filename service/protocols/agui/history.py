"""The conversation of a thread, for a client that connects to it."""

from uuid import UUID

from service.access.principal import Principal
from service.errors import NotFound
from service.events.answers import as_text
from service.limits import PAGE_ITEMS
from service.messages.model import Status, decoded
from service.protocols.agui.model import Message
from service.protocols.agui.services import AguiServices


async def conversation(
    services: AguiServices, principal: Principal, thread_id: str
) -> tuple[list[Message], Status | None]:
    """The last messages of a thread as messages of the protocol, and the one that is not over yet: its answer is not
    among them. Messages behind that one are left out. Nothing for a thread that does not exist."""
    try:
        thread, _ = await services.threads.key(principal, thread_id)
    except NotFound:
        return [], None
    newest, _ = await services.messages.of_thread(thread, None, PAGE_ITEMS, newest_first=True)
    found: list[Message] = []
    for message in (decoded(status) for status in newest[::-1] if not status.aside):
        found += _said(message)
        if message.state in ("queued", "processing"):
            return found, message
        if message.state == "completed" and message.result is not None:
            found.append(
                {"id": f"msg_{message.message_id.hex}", "role": "assistant", "content": as_text(message.result)}
            )
    return found, None


async def last_answer(services: AguiServices, message_id: UUID) -> int:
    """The seq of the last answer of a client in the log of a message; 0 for none."""
    seq = 0
    async for entry in services.follower.read(message_id, 0):
        seq = entry.seq if entry.type == "input" else seq
    return seq


def _said(message: Status) -> list[Message]:
    """As the client sent it, if it was one of this protocol."""
    kept = message.metadata.get("agui")
    given = kept.get("messages") if isinstance(kept, dict) else None
    if isinstance(given, list) and all(isinstance(item, dict) and "id" in item for item in given):
        return given
    return [{"id": f"user_{message.message_id.hex}", "role": "user", "content": as_text(message.user_message)}]
