"""The headers that every answer has: those that keep it to this origin, and those that let a page of CORS_ORIGINS read
it. Pages bring a Content-Security-Policy of their own (`static_files`)."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from litestar.types import Send

HeaderList: TypeAlias = list[tuple[bytes, bytes]]

# Where the answer has none of its own.
DEFAULTS: HeaderList = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]
REQUEST_HEADERS = (
    *("Authorization", "Cache-Control", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer", "traceparent"),
    *("tracestate", "X-Api-Key"),
    *("A2A-Extensions", "A2A-Version"),
    # What the SDK of OpenAI sends with each request, also in a browser.
    *("OpenAI-Beta", "OpenAI-Organization", "OpenAI-Project"),
    *(f"X-Stainless-{name}" for name in ("Arch", "Helper-Method", "Lang", "OS", "Package-Version")),
    *(f"X-Stainless-{name}" for name in ("Retry-Count", "Runtime", "Runtime-Version", "Timeout")),
)
ANSWER_HEADERS = (
    *("Allow", "Content-Location", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "Searched-Until", "WWW-Authenticate"),
)
PREFLIGHT_SECONDS = 7200  # that a browser keeps the answer; Chromium keeps none longer
PREFLIGHT_VARY = b"Access-Control-Request-Headers, Access-Control-Request-Method, Origin"


class Answers:
    """`vary`: whether the answer depends on the page that asks."""

    def __init__(self, *, vary: bool) -> None:
        self._vary = vary

    def completing(self, send: Send, scope: Any, foreign: bytes | None) -> Send:
        """`send`, with complete headers. `foreign`: the origin of a page of CORS_ORIGINS that asks."""
        is_preflight = foreign is not None and scope["method"] == "OPTIONS" and _asks_first(scope["headers"])

        async def completed(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = _with_defaults(message.get("headers", ()))
                if foreign is not None:
                    headers += _preflight(headers, foreign) if is_preflight else _readable(foreign)
                if self._vary:
                    headers = _varied(headers, PREFLIGHT_VARY if is_preflight else b"Origin")
                message = {**message, "headers": headers}
            await send(message)

        return completed


def _asks_first(headers: HeaderList) -> bool:
    return any(name == b"access-control-request-method" for name, _ in headers)


def _with_defaults(headers: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    completed = list(headers)
    present = {name for name, _ in completed}  # Litestar writes names in lower case
    return completed + [header for header in DEFAULTS if header[0] not in present]


def _readable(origin: bytes) -> HeaderList:
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", ", ".join(ANSWER_HEADERS).encode()),
    ]


def _preflight(headers: HeaderList, origin: bytes) -> HeaderList:
    """The methods are those of the route, from the answer to OPTIONS."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", dict(headers).get(b"allow", b"")),
        (b"access-control-allow-headers", ", ".join(REQUEST_HEADERS).encode()),
        (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
    ]


def _varied(headers: HeaderList, names: bytes) -> HeaderList:
    others = [value for name, value in headers if name == b"vary"]
    return [(name, value) for name, value in headers if name != b"vary"] + [(b"vary", b", ".join([*others, names]))]
