"""What both bindings share on the wire."""

from typing import Any

from litestar import Request

from service.protocols.a2a.errors import VersionNotSupported
from service.protocols.a2a.model import VERSION

HEADER = "A2A-Version"


def check_version(request: Request[Any, Any, Any]) -> None:
    """A request without a version is one of 0.3. Raises VersionNotSupported."""
    asked = request.headers.get(HEADER) or request.query_params.get(HEADER) or "0.3"
    if asked.split(".")[:2] != VERSION.split("."):
        raise VersionNotSupported(f"This server speaks A2A {VERSION}, not {asked[:20]!r}; send {HEADER}: {VERSION}.")
