"""The words that a column of the database takes are those of its Literal in Python."""

import re
from typing import Any, get_args

import pytest

from service.db.pool import Connection
from service.messages.model import Hold, State


@pytest.mark.parametrize(("column", "vocabulary"), [("state", State), ("hold", Hold)])
async def test_a_message_has_the_words_of_python(sql: Connection, column: str, vocabulary: Any) -> None:
    definition = await sql.fetchval(
        "select pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'treadle.messages'::regclass and conname = $1",
        f"messages_{column}_check",
    )
    assert set(re.findall(r"'(\w+)'::text", definition)) == set(get_args(vocabulary))
