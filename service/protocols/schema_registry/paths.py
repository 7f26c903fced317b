"""Subjects in paths: a subject may have slashes, which clients escape."""

from collections.abc import Awaitable
from typing import Any
from urllib.parse import unquote

from litestar.types import ASGIApp, Receive, Send

from service.protocols.schema_registry.errors import InvalidSubject, InvalidVersion
from service.schemas.model import SUBJECT_RULE, is_subject

PREFIX = "/schema-registry/"
LATEST = ("latest", "-1")
MAX_VERSION = 2**31 - 1


class EscapedPaths:
    """The application `app`, which finds its routes in unescaped paths: those of the dialect stay escaped, so that
    `a%2Fb` is one part of a path. Their handlers unescape it (`parse_subject`)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            scope = {**scope, "path": scope["raw_path"].decode("latin-1").partition("?")[0]}
        return self._app(scope, receive, send)


def parse_subject(text: str) -> str:
    """Raises InvalidSubject."""
    subject = unquote(text)
    if not is_subject(subject):
        raise InvalidSubject(f"A subject has {SUBJECT_RULE}.")
    return subject


def parse_version(text: str) -> int | None:
    """The number of a version; None: the newest. Raises InvalidVersion."""
    if text in LATEST:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= MAX_VERSION):
        raise InvalidVersion(f"A version is `latest` or a whole number from 1 to {MAX_VERSION}.")
    return int(text)
