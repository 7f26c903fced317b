"""Repeat a call until PostgreSQL has answered."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.errors import Busy, TooSlow, Unavailable

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0

Answer = TypeVar("Answer")


async def persist(name: str, call: Callable[[], Coroutine[Any, Any, Answer]], items: int = 1) -> Answer:
    """The answer of a call that can be repeated with the same outcome; `name` stands in the log.

    Raises TimeoutError if a call for several items takes too long: it must be split, not repeated.
    """
    delay = RETRY_SECONDS
    while True:
        try:
            return await call()
        except Unavailable as error:
            if isinstance(error, TooSlow) and items > 1:
                raise TimeoutError(str(error)) from error
            log.log(error.log_level, "trying again", extra={"call": name, "error": str(error)})
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_RETRY_SECONDS)


async def persist_lookup(
    name: str, look_up: Callable[[], Coroutine[Any, Any, Answer]], *, is_bounded: bool = True
) -> Answer:
    """The answer of a lookup. A table that another transaction has locked is waited for as well.

    Raises TimeoutError if a lookup whose size is the agent's (not `is_bounded`) takes too long.
    """

    async def ask() -> Answer:
        try:
            return await look_up()
        except Busy as error:  # behind a pooler, where the database's own lock_timeout holds
            raise Unavailable(str(error)) from error

    return await persist(name, ask, 1 if is_bounded else 2)
