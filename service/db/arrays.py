"""Arrays as texts, for hot calls: asyncpg takes a microsecond for each element of a list, to see whether it is a list
itself. A statement reads them as `$1::text::uuid[]`, or by SPLIT."""

from collections.abc import Iterable, Sequence

from service.errors import NotStorable

SEPARATOR = "\x1f"
SPLIT = "string_to_array({}, E'\\x1f')"


def array(values: Iterable[object]) -> str:
    """Numbers, UUIDs or names, as PostgreSQL writes an array of them."""
    return f"{{{','.join(map(str, values))}}}"


def joined(texts: Sequence[str]) -> str:
    """JSON, or names. Raises NotStorable for other texts: one that is empty or has a control character."""
    whole = SEPARATOR.join(texts)
    if whole.count(SEPARATOR) >= max(len(texts), 1) or not all(texts):
        raise NotStorable("The type or the data of an event is empty or has the control character U+001F.")
    return whole
