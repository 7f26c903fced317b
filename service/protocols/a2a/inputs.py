"""From messages of the protocol to ours: pure functions."""

from typing import Any
from uuid import UUID

import msgspec

from service.protocols.a2a.errors import ContentTypeNotSupported, InvalidParams
from service.protocols.a2a.model import Message, Part, SendParams

GIVEN_MODES = ("text", "application/json", "*")  # how an accepted output mode begins
OWN = "a2a"  # the name under which a message keeps what the request said besides
BLOCKS = {"image": "image", "application/pdf": "document"}  # as Claude agents take them


def check_modes(accepted: list[str] | None) -> None:
    """Raises ContentTypeNotSupported."""
    if accepted and not any(mode.startswith(GIVEN_MODES) for mode in accepted):
        raise ContentTypeNotSupported("The agents answer with text/plain and application/json; accept one of them.")


def content_of(message: Message) -> Any:
    """What the parts say: a text; the JSON of one data part; else an object as Claude agents take it. Raises
    ContentTypeNotSupported, InvalidParams."""
    if len(message.parts) == 1 and message.parts[0].data is not msgspec.UNSET:
        return message.parts[0].data
    blocks = [_block(part) for part in message.parts]
    if all(block["type"] == "text" for block in blocks):
        return "\n\n".join(block["text"] for block in blocks if block["text"])
    return {"content": blocks}


def metadata_of(params: SendParams) -> dict[str, Any]:
    message = params.message
    kept: dict[str, Any] = {"messageId": message.message_id}
    if message.extensions:
        kept["extensions"] = message.extensions
    if message.reference_task_ids:
        kept["referenceTaskIds"] = message.reference_task_ids
    return {**(params.metadata or {}), **(message.metadata or {}), OWN: kept}


def agent_of(params: SendParams) -> str | None:
    """The agent that the metadata name. Raises InvalidParams."""
    agent = {**(params.metadata or {}), **(params.message.metadata or {})}.get("agent")
    if agent is not None and not isinstance(agent, str):
        raise InvalidParams("metadata.agent must be the name of an agent.")
    return agent


def parse_task_id(text: str) -> UUID | None:
    """None for an id that another server made."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _block(part: Part) -> dict[str, Any]:
    """Raises ContentTypeNotSupported, InvalidParams."""
    if part.text is not None:
        return {"type": "text", "text": part.text}
    if part.data is not msgspec.UNSET:
        return {"type": "text", "text": msgspec.json.encode(part.data).decode()}
    if part.raw is None and part.url is None:
        raise InvalidParams("Each part must have one of text, raw, url and data.")
    media_type = (part.media_type or "").lower()
    kind = BLOCKS.get(media_type) or BLOCKS.get(media_type.partition("/")[0])
    if kind is None:
        raise ContentTypeNotSupported(
            f"Files of the type {media_type[:50]!r} are not passed on; send texts, data, images and PDF documents."
        )
    if part.raw is not None:
        return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": part.raw}}
    return {"type": kind, "source": {"type": "url", "url": part.url}}
