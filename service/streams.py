"""Answers of HTTP whose body comes in parts."""

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

from litestar.response import Stream

from service.sse_frames import HEADERS, MEDIA_TYPE

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def sse(parts: AsyncIterator[bytes], headers: Mapping[str, str] = NO_HEADERS) -> Stream:
    """A stream of server-sent events."""
    return _stream(parts, MEDIA_TYPE, headers)


def json_stream(parts: AsyncIterator[bytes], headers: Mapping[str, str] = NO_HEADERS) -> Stream:
    """JSON after white space, which keeps the connection open until the JSON is known."""
    return _stream(parts, "application/json", headers)


def _stream(parts: AsyncIterator[bytes], media_type: str, headers: Mapping[str, str]) -> Stream:
    return Stream(parts, media_type=media_type, headers={**HEADERS, **headers}, status_code=200)
