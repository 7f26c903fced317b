"""What must hold in every Treadle database at any moment: treadle.violations names the exceptions, and there must be
none.

`await assert_consistent(sql)` looks from one snapshot, so it may be called while others work.
"""

from service.db.pool import Connection


async def violations(sql: Connection) -> dict[str, list[str]]:
    """What does not hold: the first few exceptions, by rule."""
    found: dict[str, list[str]] = {}
    for row in await sql.fetch("select rule, subject, detail from treadle.violations"):
        found.setdefault(row["rule"], []).append(f"{row['subject']}: {row['detail']}")
    return found


async def assert_consistent(sql: Connection) -> None:
    found = await violations(sql)
    assert not found, "\n".join(f"{rule}\n    " + "\n    ".join(rows[:5]) for rule, rows in found.items())
