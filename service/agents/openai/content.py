"""Content blocks as chat completions take them.

Pictures and documents in the form of the Messages API, which the other protocols and earlier messages for Claude have,
become parts of chat completions. All other blocks go unchanged.
"""

from typing import Any

from service.agents.contract import Rejected

DEFAULT_TITLE = "document.pdf"  # the API asks for a name


def content_parts(content: str | list[dict[str, Any]], *, left_out: bool = False) -> str | list[dict[str, Any]]:
    """With `left_out`, a note takes the place of a block that the API cannot take. Raises Rejected without it."""
    if isinstance(content, str):
        return content
    parts = []
    for number, block in enumerate(content):
        part = _part(block)
        if part is None and not left_out:
            raise Rejected(
                f"The message's content[{number}] has a source that chat completions do not take: send base64 data."
            )
        parts.append(part or {"type": "text", "text": f"[{block['type']}, left out]"})
    return parts


def _part(block: dict[str, Any]) -> dict[str, Any] | None:
    """None for a block that the API cannot take."""
    source = block.get("source")
    if block["type"] not in ("image", "document") or not isinstance(source, dict):
        return block
    data = source.get("data")
    if block["type"] == "document" and source.get("type") == "text" and isinstance(data, str):
        return {"type": "text", "text": data}
    url = f"data:{source.get('media_type')};base64,{data}" if isinstance(data, str) else None
    if block["type"] == "image":
        url = source.get("url") or url
        return {"type": "image_url", "image_url": {"url": url}} if url else None
    file = {"filename": str(block.get("title") or DEFAULT_TITLE), "file_data": url}
    return {"type": "file", "file": file} if url else None
