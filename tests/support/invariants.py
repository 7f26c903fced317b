"""The invariants of a Treadle database: the view treadle.violations must be empty at any moment.

`await assert_consistent(sql)` reads one snapshot, so it may be called while other connections work.
"""

from service.db.pool import Connection


async def violations(sql: Connection) -> dict[str, list[str]]:
    """The rows of treadle.violations, by rule."""
    found: dict[str, list[str]] = {}
    for row in await sql.fetch("select rule, subject, detail from treadle.violations"):
        found.setdefault(row["rule"], []).append(f"{row['subject']}: {row['detail']}")
    return found


async def assert_consistent(sql: Connection) -> None:
    found = await violations(sql)
    assert not found, "\n".join(f"{rule}\n    " + "\n    ".join(rows[:5]) for rule, rows in found.items())
