"""A clone of the template that tests use one after another. Each of them finds the template's rows and nothing else."""

from typing import Any, NamedTuple

import psycopg

from tests.support.warm_sessions import WarmSessions

MAX_LOANS = 40  # deleted rows leave dead ones behind
MAX_PAGES = 64  # of a table: one that grew more is slower to read than a new database is made
END_MILLISECONDS = 10_000  # for each session that a test leaves open

CATALOGS = (
    *("attrdef", "attribute", "cast", "class", "constraint", "default_acl", "enum", "event_trigger", "extension"),
    *("inherits", "namespace", "policy", "proc", "publication", "rewrite", "statistic", "statistic_ext", "trigger"),
    "type",
)
# How many rows each catalog has, and how many of them are newer than this transaction. Rows that a vacuum changes in
# place keep their transaction.
CATALOG_COUNTS = " union all ".join(
    f"select count(*), count(*) filter (where age(c.xmin) <= age(%(horizon)s::text::xid)) from pg_{name} c"
    for name in CATALOGS
)
DATABASE_COUNTS = """
    select (select count(*) from pg_db_role_setting s where s.setdatabase = d.oid),
        (age(d.xmin) <= age(%(horizon)s::text::xid))::integer
    from pg_database d
    where d.datname = current_database()"""
TABLES = """
    select format('%I.%I', n.nspname, c.relname)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname in ('treadle', 'pgmq')
    order by 1"""
MOST_PAGES = """
    select max(pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)) / 8192
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname in ('treadle', 'pgmq')"""
SEQUENCES = """
    select format('%I.%I', s.schemaname, s.sequencename), coalesce(s.last_value, s.start_value),
        s.last_value is not null
    from pg_sequences s
    where s.schemaname in ('treadle', 'pgmq')"""
OTHER_SESSIONS = """
    from pg_stat_activity a
    where a.datname = current_database() and a.backend_type = 'client backend'
        and a.pid <> pg_backend_pid() and a.pid <> all(%(idle)s)"""


class _Rows(NamedTuple):
    """The rows of a table in the template."""

    table: str
    copy: bytes


class LentDatabase:
    def __init__(self, server: str, name: str, sessions: WarmSessions) -> None:
        """A new clone of the template."""
        self.name = name
        self.dsn = f"{server}/{name}"
        self._loans = 0
        self._sessions = sessions
        self._own = psycopg.connect(self.dsn, autocommit=True, prepare_threshold=0, application_name="tests")
        self._tables = [row[0] for row in self._own.execute(TABLES)]
        self._full = [
            _Rows(table, self._copy(table))
            for table in self._tables
            if self._value(f"select exists (select from {table})")
        ]
        self._make_deletion()
        self._horizon = self._value("select pg_snapshot_xmax(pg_current_snapshot())::text")
        self._counts = self._count()
        sessions.add(name)

    def is_unused(self) -> bool:
        """Whether only idle sessions are there; others would be those of an earlier test."""
        return not self._value(f"select count(*) {OTHER_SESSIONS}", idle=self._sessions.idle_pids(self.name))

    def reset(self) -> bool:
        """Take it back from a test; returns whether it is again as it was."""
        self._loans += 1
        if self._loans >= MAX_LOANS:
            return False
        try:
            return self._end_sessions() and self._count() == self._counts and self._delete()
        except psycopg.Error:  # the test has ended this session, too
            return False

    def close(self) -> None:
        self._sessions.remove(self.name)
        self._own.close()

    def _end_sessions(self) -> bool:
        """End the sessions that the test has left open; returns whether they are gone."""
        end = f"select count(pg_terminate_backend(a.pid, {END_MILLISECONDS})) {OTHER_SESSIONS}"
        return not self._value(end, idle=self._sessions.idle_pids(self.name)) or self.is_unused()

    def _count(self) -> list[Any]:
        arguments = {"horizon": self._horizon}
        counts: list[Any] = self._own.execute(CATALOG_COUNTS, arguments).fetchall()
        return counts + self._own.execute(DATABASE_COUNTS, arguments).fetchall()

    def _make_deletion(self) -> None:
        """A temporary function, whose plans are kept. It deletes the rows of tables that are empty in the template."""
        full = {rows.table for rows in self._full}
        deletions = [f"delete from {table};" for table in self._tables if table not in full]
        for name, value, is_called in self._own.execute(SEQUENCES).fetchall():
            deletions.append(f"perform setval('{name}', {value}, {is_called});")
        # No trigger and no foreign key stops it.
        self._own.execute(
            "create function pg_temp.reset() returns void language plpgsql"
            f" set session_replication_role = replica as $$ begin {' '.join(deletions)} end $$"
        )

    def _delete(self) -> bool:
        if self._value(MOST_PAGES) > MAX_PAGES:
            return False
        self._own.execute("select pg_temp.reset(), pg_stat_reset()")
        for rows in self._full:
            if self._copy(rows.table) != rows.copy:
                self._restore(rows)
        return True

    def _restore(self, rows: _Rows) -> None:
        with self._own.transaction(), self._own.cursor() as cursor:
            cursor.execute("set local session_replication_role = replica")
            cursor.execute(f"delete from {rows.table}")
            with cursor.copy(f"copy {rows.table} from stdin") as copy:
                copy.write(rows.copy)

    def _copy(self, table: str) -> bytes:
        with self._own.cursor() as cursor, cursor.copy(f"copy (table {table}) to stdout") as copy:
            return b"".join(bytes(part) for part in copy)

    def _value(self, query: str, **arguments: Any) -> Any:
        row = self._own.execute(query, arguments or None).fetchone()
        assert row is not None
        return row[0]
