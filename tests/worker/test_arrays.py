"""Lists that hot calls send to PostgreSQL as texts arrive there as they are, or not at all."""

from uuid import UUID

import pytest

from service.db.arrays import SPLIT, array, joined
from service.db.pool import Connection
from service.errors import NotStorable

DATA = ['{"a": "b\\u001f\\n, {}"}', '"x\\"y\\\\"', "null", "[]", "\"ä\u2028🙂 '$1' \""]


async def test_arrays_arrive(sql: Connection) -> None:
    ids = [UUID(int=1), UUID(int=2**127)]
    row = await sql.fetchrow(
        "select $1::text::uuid[], $2::text::bigint[], $3::text::integer[]", array(ids), array([2**62, -1]), array([])
    )
    assert row is not None
    assert list(row) == [ids, [2**62, -1], []]
    for texts in (DATA, DATA[:1], []):
        assert await sql.fetchval(f"select {SPLIT.format('$1::text')}", joined(texts)) == texts


@pytest.mark.parametrize("texts", [[""], ["1", ""], ["1\x1f2"], ["1", "\x1f", "2"]])
def test_a_text_that_would_be_split_is_refused(texts: list[str]) -> None:
    with pytest.raises(NotStorable):
        joined(texts)
