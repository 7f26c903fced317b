"""The tables for SQLAlchemy: Alembic compares a database with them to draft the next migration.

The migrations create the tables, and a test compares the two. CHECKs, comments and storage parameters stand only in
the migrations.
"""

from service.db.tables import events, installation, messages, schemas, tenants, threads, topics, webhooks
from service.db.tables.columns import metadata

__all__ = ["events", "installation", "messages", "metadata", "schemas", "tenants", "threads", "topics", "webhooks"]
