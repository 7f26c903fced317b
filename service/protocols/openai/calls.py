"""What the modules of handlers share."""

import functools
from typing import Any, TypeAlias

import litestar
from litestar import Response
from litestar.di import NamedDependency

from service.access.principal import Principal
from service.errors import Unprocessable
from service.limits import MAX_PAGE_ITEMS
from service.protocols.openai.services import OpenAIServices

Caller: TypeAlias = NamedDependency[Principal]
Services: TypeAlias = NamedDependency[OpenAIServices]
Answer: TypeAlias = Response[Any]

DEFAULT_ITEMS = 20

get = litestar.get
post = functools.partial(litestar.post, status_code=200)
delete = functools.partial(litestar.delete, status_code=200)


def page_size(query: Any) -> int:
    """The query parameter `limit`. Raises Unprocessable."""
    text = query.get("limit") or str(DEFAULT_ITEMS)
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE_ITEMS):
        raise Unprocessable(f"limit must be a whole number from 1 to {MAX_PAGE_ITEMS}.")
    return int(text)
