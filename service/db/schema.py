"""The schema that this code works with, and whether the database has it."""

import hashlib

from service.db.data_files import data_folder
from service.db.pool import Database
from service.errors import SchemaError

SQL_FOLDER = data_folder("sql")
SCHEMA_RELEASE = 4  # of tables and functions together; raised by a change that older processes cannot work with
SUPPORTED = range(4, 5)  # releases that this code works with
MAX_RELEASE_DIGITS = 9
DEVELOPMENT_RELEASES = ("1", "2", "3")  # of databases that development versions made; their tables differ
NEWEST_MIGRATION = "0030"  # the newest of migrations/versions; their names count up; a number may be missing
# The release of a database; null also where a migration of this code has not been applied yet.
RELEASE_FOUND = f"""
    (select value from treadle.meta where name = 'release'
        and exists (select from treadle.alembic_version where version_num collate "C" >= '{NEWEST_MIGRATION}'))"""


def digest() -> str:
    """A digest of `sql/`, recorded in treadle.meta: to compare with the functions of this version."""
    sha = hashlib.sha256()
    for path in sorted(SQL_FOLDER.glob("*.sql")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def is_known(release: str) -> bool:
    """Whether it is the number of this release or of an earlier one."""
    return (
        release.isascii()
        and release.isdecimal()
        and len(release) <= MAX_RELEASE_DIGITS
        and int(release) <= SCHEMA_RELEASE
    )


def problem(release: str | None) -> str | None:
    """One sentence on why this code cannot work with that release (treadle.meta, `release`); None: it can."""
    if release is None:
        return "The database has no Treadle schema of this release: run treadle migrate."
    if release in DEVELOPMENT_RELEASES:
        return "The database was made by a development version and cannot be upgraded: start with a new database."
    if not is_known(release) or int(release) not in SUPPORTED:
        return f"The database's schema is of release {release}, which this version does not know: run treadle migrate."
    return None


async def require(database: Database) -> None:
    """Raises SchemaError where this code cannot work with the schema, Unavailable without an answer."""
    release = await database.fetchval(f"select {RELEASE_FOUND}")
    if wrong := problem(release):
        raise SchemaError(wrong)
