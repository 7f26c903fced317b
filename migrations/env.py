"""Alembic's environment: `service.db.migrate` hands the address in, and the seconds that a statement may take;
developers may pass the address with -x dsn=..."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.db.connection import connect
from service.db.tables import metadata

SCHEMA = "treadle"


def run(connection: Connection) -> None:
    connection.execute(text("set lock_timeout = '5s'"))
    connection.execute(text(f"create schema if not exists {SCHEMA}"))
    connection.commit()  # from here on Alembic begins and ends the transactions
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    dsn = context.config.attributes.get("dsn") or context.get_x_argument(as_dictionary=True)["dsn"]
    timeout = context.config.attributes.get("timeout", 3600.0)
    # SQLAlchemy reads addresses its own way (no sslmode, no list of hosts): connect as the service does.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(dsn, name="migrate", command_timeout=timeout),
        poolclass=NullPool,
    )
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
