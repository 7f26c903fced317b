"""What a server says on the socket of a chat, and the errors of the client that follow from it."""

from typing import Any
from uuid import UUID

import msgspec
from websockets.exceptions import InvalidStatus

from treadle.client.errors import ApiError, TreadleError, Unavailable, api_error


class Frame(msgspec.Struct):
    type: str
    id: int | None = None
    message_id: UUID | None = None
    event: str = ""
    data: Any = None
    status: str | int = ""  # the news of a status frame, or the HTTP status of an error
    log: int | None = None
    key: str | None = None
    detail: str = ""
    retry_after: float | None = None
    after: int | None = None
    next: int | None = None


def error_of_frame(frame: Frame, status: int, detail: str) -> ApiError:
    """Of an error frame; the status and the detail are for one that has none."""
    return api_error(frame.status if isinstance(frame.status, int) else status, frame.detail or detail)


def error_of_handshake(refused: InvalidStatus) -> TreadleError:
    """Of a handshake that the server, or a proxy before it, has answered otherwise."""
    answer = refused.response
    if answer.status_code in (408, 502, 503, 504):
        return Unavailable(f"The server answered {answer.status_code}.")
    try:
        detail = str(msgspec.json.decode(answer.body or b"")["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        detail = f"The server answered {answer.status_code}."
    return api_error(answer.status_code, detail)
