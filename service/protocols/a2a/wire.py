"""What both bindings share on the wire."""

from typing import Any

from litestar import Request
from litestar.response import Stream

from service.protocols.a2a.errors import VersionNotSupported
from service.protocols.a2a.model import VERSION
from service.sse_frames import HEADERS, MEDIA_TYPE

HEADER = "A2A-Version"


def check_version(request: Request[Any, Any, Any]) -> None:
    """A request without a version is one of 0.3. Raises VersionNotSupported."""
    asked = request.headers.get(HEADER) or request.query_params.get(HEADER) or "0.3"
    if asked.split(".")[:2] != VERSION.split("."):
        raise VersionNotSupported(f"This server speaks A2A {VERSION}, not {asked[:20]!r}; send {HEADER}: {VERSION}.")


def sse(parts: Any) -> Stream:
    return Stream(parts, media_type=MEDIA_TYPE, headers=HEADERS, status_code=200)


def json_stream(parts: Any) -> Stream:
    return Stream(parts, media_type="application/json", headers=HEADERS, status_code=200)
