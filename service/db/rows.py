"""Rows of PostgreSQL as Structs of an answer."""

from collections.abc import Collection
from typing import Any, TypeVar

import msgspec
from asyncpg import Record

Kind = TypeVar("Kind", bound=msgspec.Struct)


def from_row(kind: type[Kind], row: Record, json_texts: Collection[str] = (), **more: Any) -> Kind:
    """The Struct whose fields are columns of the row, or given in `more`.

    `json_texts` are values of type jsonb, selected as text. They are passed on as PostgreSQL prints them: nothing here
    recurses into them or converts their numbers, however deep or large they are.
    """
    values = {name: row[name] for name in kind.__struct_fields__ if name not in more}
    for name in json_texts:
        if values[name] is not None:
            values[name] = msgspec.Raw(values[name])
    return kind(**values, **more)
