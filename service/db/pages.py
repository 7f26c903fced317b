"""Pages of lists: what one answer holds is bounded in number and in bytes. A call reads little more than that, unless
large rows come behind small ones."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from service.limits import JSON_PAGE_BYTES, MAX_PAGE_ITEMS, PAGE_ITEMS

if TYPE_CHECKING:  # asyncpg makes commands start late
    from asyncpg import Record

FIRST_ROWS = 10  # that are read; their size tells how many more fit
READ_ROWS = PAGE_ITEMS + 1  # at most at once: a page of the default size, and the row that tells of another one
ROW_BYTES = 300  # of the columns that are no texts, as JSON

Item = TypeVar("Item")
Place = TypeVar("Place")


async def read_page(
    read: "Callable[[Place | None, int], Awaitable[list[Record]]]",
    place_of: "Callable[[Record], Place]",
    *,
    after: Place | None,
    limit: int,
) -> "tuple[list[Record], Place | None]":
    """At most `limit` rows and about JSON_PAGE_BYTES of texts, but at least one row, and the place of the last of them
    where others follow. `read`: so many rows behind a place. It reads FIRST_ROWS, and then as many as fit if they are
    as large as the largest one so far; none twice."""
    page: list[Record] = []
    size = largest = 0
    fitting = FIRST_ROWS
    while True:
        wanted = min(fitting, READ_ROWS, limit + 1 - len(page))
        rows = await read(after, wanted)
        for row in rows:
            its_size = ROW_BYTES + sum(map(_size, row.values()))
            largest = max(largest, its_size)
            size += its_size
            if page and (len(page) == limit or size > JSON_PAGE_BYTES):
                return page, place_of(page[-1])
            page.append(row)
        if len(rows) < wanted:
            return page, None
        after = place_of(page[-1])
        fitting = (JSON_PAGE_BYTES - size) // largest + 1


def _size(value: Any) -> int:
    """Of a text, or of a list of texts."""
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 0


async def read_all(
    page: Callable[[Place | None, int], Awaitable[tuple[list[Item], Place | None]]],
) -> list[Item]:
    """The items of all pages, for a command or a list that has no pages of its own."""
    found: list[Item] = []
    after: Place | None = None
    while True:
        items, after = await page(after, MAX_PAGE_ITEMS)
        found += items
        if after is None:
            return found
