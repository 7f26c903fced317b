"""The columns of the tables: what most of them have in common."""

from typing import Any

from sqlalchemy import Column, MetaData, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import TypeEngine

metadata = MetaData(schema="treadle")

Type = TypeEngine[Any] | type[TypeEngine[Any]]
Time = TIMESTAMP(timezone=True)


def key(name: str, type: Type, *more: Any, default: str | None = None) -> Column[Any]:
    """A column of the primary key; `default` is SQL."""
    return Column(name, type, *more, primary_key=True, server_default=None if default is None else text(default))


def must(name: str, type: Type, default: str | None = None, *more: Any) -> Column[Any]:
    """A column that is never null; `default` is SQL."""
    return Column(name, type, *more, nullable=False, server_default=None if default is None else text(default))


def may(name: str, type: Type) -> Column[Any]:
    """A column that may be null."""
    return Column(name, type)


def tenant(primary_key: bool = False) -> Column[Any]:
    return Column("tenant", Text, nullable=False, primary_key=primary_key)
