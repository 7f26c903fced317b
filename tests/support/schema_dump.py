"""The schema of a database as text, to compare two of them."""

import asyncio
import re
import subprocess
from pathlib import Path

from service.db.pool import Connection
from service.local.private_postgres import PrivatePostgres

NOT_OURS = re.compile(
    r"--|SET |SELECT pg_catalog|\\"
    r"|ALTER TABLE ONLY \S+ ALTER COLUMN \S+ SET \(pg_attver=\d+\);"  # a stamp of PostgreSQL 15.20
)


async def dumped_schema(dsn: str) -> str:
    """The schema treadle as pg_dump writes it: tables, views and signatures; less the inner functions, the grants
    (tested above), and what changes from day to day."""
    program = PrivatePostgres(Path("unused")).program("pg_dump")
    process = await asyncio.create_subprocess_exec(
        program,
        *("--schema-only", "--schema=treadle", "--no-owner", "--no-privileges", "--exclude-table=treadle.*_2*"),
        f"--dbname={dsn}",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    dump = re.sub(r"(?ms)^    AS (\$\w*\$).*?\1;$", "    AS ...;", out.decode())
    dump = re.sub(r"(?ms)^CREATE FUNCTION treadle\._.*?^    AS \.\.\.;$", "", dump)
    lines = [line for line in dump.splitlines() if line and not NOT_OURS.match(line)]
    return "\n".join(lines) + "\n"


async def function_bodies(sql: Connection) -> list[str]:
    rows = await sql.fetch(
        "select pg_get_functiondef(oid) as body from pg_proc where pronamespace = 'treadle'::regnamespace order by 1"
    )
    return [row["body"] for row in rows]
