"""Submit, publish and cancel inside your own transaction, on the connection or session that you have.

    from treadle import sql

    with engine.begin() as connection:  # SQLAlchemy
        connection.execute(insert(orders).values(id=1))
        sql.submit(connection, "Thank the buyer.", thread_id="order-1")

The order and the message exist together or not at all. A connection of asyncpg, psycopg or SQLAlchemy will do, and a
session of SQLAlchemy. With an asynchronous one the functions return an awaitable: `await sql.submit(...)`.

What PostgreSQL refuses is an exception of the driver, whose SQLSTATE is TR422 for a value that is not acceptable, TR409
for a conflict, TR404 for an unknown message, and TR429 for a full queue. The login needs the role `treadle_app`, or is
one of `treadle tenants sql-role`.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, Unpack, overload
from uuid import UUID

import msgspec

from treadle.options import SubmitOptions, submission

T = TypeVar("T")

SUBMIT = """
select s.message_id
from treadle.submit_many(messages => {0}::text::jsonb, tenant => {1}::text, notify => {2}::text::boolean) s
order by s.n
"""
PUBLISH = """
select p.record_id
from treadle.publish_many(
    topic => {0}::text, records => {1}::text::jsonb, tenant => {2}::text, notify => {3}::text::boolean) p
order by p.n
"""
CANCEL = "select treadle.cancel(message_id => {0}::text::uuid, tenant => {1}::text)"


class AsyncpgConnection(Protocol):
    """A connection of asyncpg, also one of a pool."""

    async def fetch(self, query: str, /, *args: Any) -> Any: ...


class AsyncConnection(Protocol):
    """An AsyncConnection of psycopg or SQLAlchemy, or an AsyncSession."""

    async def execute(self, statement: Any, parameters: Any = ..., /) -> Any: ...


class BlockingConnection(Protocol):
    """A Connection of psycopg or SQLAlchemy, or a Session."""

    def execute(self, statement: Any, parameters: Any = ..., /) -> Any: ...


Asynchronous: TypeAlias = AsyncpgConnection | AsyncConnection
Message: TypeAlias = str | Mapping[str, Any]


@overload
def submit(
    connection: Asynchronous,
    message: Message,
    *,
    tenant: str = ...,
    notify: bool = ...,
    **options: Unpack[SubmitOptions],
) -> Awaitable[UUID]: ...
@overload
def submit(
    connection: BlockingConnection,
    message: Message,
    *,
    tenant: str = ...,
    notify: bool = ...,
    **options: Unpack[SubmitOptions],
) -> UUID: ...
def submit(
    connection: Any,
    message: Message,
    *,
    tenant: str = "default",
    notify: bool = True,
    **options: Unpack[SubmitOptions],
) -> UUID | Awaitable[UUID]:
    """Submit one message; it is sent when the transaction commits. Returns its id. The options are those of
    `treadle.Client.submit`.

    notify  Wake a worker with the commit. Turn it off in bulk loads and in transactions that stay open: workers then
            look within POLL_INTERVAL.
    """
    content = msgspec.json.encode([submission(message, options)]).decode()
    return _call(connection, SUBMIT, (content, tenant, str(notify)), lambda rows: UUID(str(rows[0][0])))


@overload
def submit_many(
    connection: Asynchronous, messages: Sequence[Mapping[str, Any]], *, tenant: str = ..., notify: bool = ...
) -> Awaitable[list[UUID]]: ...
@overload
def submit_many(
    connection: BlockingConnection, messages: Sequence[Mapping[str, Any]], *, tenant: str = ..., notify: bool = ...
) -> list[UUID]: ...
def submit_many(
    connection: Any, messages: Sequence[Mapping[str, Any]], *, tenant: str = "default", notify: bool = True
) -> list[UUID] | Awaitable[list[UUID]]:
    """Submit messages in this order, all or nothing: objects with `message` and the options of `submit`. Returns their
    ids."""
    content = msgspec.json.encode(messages).decode()
    return _call(connection, SUBMIT, (content, tenant, str(notify)), lambda rows: [UUID(str(row[0])) for row in rows])


@overload
def publish(
    connection: Asynchronous,
    topic: str,
    value: Any,
    *,
    key: str | None = ...,
    headers: Mapping[str, str] | None = ...,
    tenant: str = ...,
    notify: bool = ...,
) -> Awaitable[UUID]: ...
@overload
def publish(
    connection: BlockingConnection,
    topic: str,
    value: Any,
    *,
    key: str | None = ...,
    headers: Mapping[str, str] | None = ...,
    tenant: str = ...,
    notify: bool = ...,
) -> UUID: ...
def publish(
    connection: Any,
    topic: str,
    value: Any,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    tenant: str = "default",
    notify: bool = True,
) -> UUID | Awaitable[UUID]:
    """Publish one record; it is sent when the transaction commits. Returns its id. `value` is any JSON; `notify` as for
    `submit`."""
    named = {"key": key, "headers": headers}
    record = {"value": value} | {name: given for name, given in named.items() if given is not None}
    content = msgspec.json.encode([record]).decode()
    return _call(connection, PUBLISH, (topic, content, tenant, str(notify)), lambda rows: UUID(str(rows[0][0])))


@overload
def publish_many(
    connection: Asynchronous, topic: str, records: Sequence[Mapping[str, Any]], *, tenant: str = ..., notify: bool = ...
) -> Awaitable[list[UUID]]: ...
@overload
def publish_many(
    connection: BlockingConnection,
    topic: str,
    records: Sequence[Mapping[str, Any]],
    *,
    tenant: str = ...,
    notify: bool = ...,
) -> list[UUID]: ...
def publish_many(
    connection: Any,
    topic: str,
    records: Sequence[Mapping[str, Any]],
    *,
    tenant: str = "default",
    notify: bool = True,
) -> list[UUID] | Awaitable[list[UUID]]:
    """Publish records in this order, all or nothing: objects with `value`, and perhaps `key`, `headers` and
    `record_id`. Returns their ids."""
    arguments = (topic, msgspec.json.encode(records).decode(), tenant, str(notify))
    return _call(connection, PUBLISH, arguments, lambda rows: [UUID(str(row[0])) for row in rows])


@overload
def cancel(connection: Asynchronous, message_id: UUID | str, *, tenant: str = ...) -> Awaitable[str]: ...
@overload
def cancel(connection: BlockingConnection, message_id: UUID | str, *, tenant: str = ...) -> str: ...
def cancel(connection: Any, message_id: UUID | str, *, tenant: str = "default") -> str | Awaitable[str]:
    """Cancel a message when the transaction commits. Returns `cancelled`, or `requested` if it runs."""
    return _call(connection, CANCEL, (str(message_id), tenant), lambda rows: str(rows[0][0]))


def _call(connection: Any, statement: str, arguments: tuple[str, ...], answer: Callable[[Any], T]) -> T | Awaitable[T]:
    """Execute the statement in the way of the connection's library. All arguments are texts, so that no codec that
    the caller has set for other types changes them."""
    library = _library(connection)
    numbers = range(len(arguments))
    if library == "asyncpg":
        return _asyncpg(connection, statement.format(*(f"${n + 1}" for n in numbers)), arguments, answer)
    if library == "sqlalchemy":
        from sqlalchemy import text  # the caller has it

        named = text(statement.replace("::text", "").format(*(f"cast(:a{n} as text)" for n in numbers)))
        done = connection.execute(named, {f"a{n}": value for n, value in enumerate(arguments)})
    else:
        from psycopg.rows import tuple_row  # the caller has it, too

        cursor = connection.cursor(row_factory=tuple_row)
        done = cursor.execute(statement.format(*("%s" for _ in numbers)), arguments)
    return _awaited(done, answer) if inspect.isawaitable(done) else answer(done.fetchall())


def _library(connection: Any) -> str:
    """The library of a connection or session, also of a class that is derived from one of its own."""
    for kind in type(connection).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in ("asyncpg", "psycopg", "sqlalchemy"):
            return library
    raise TypeError(
        f"Give a connection or session of asyncpg, psycopg or SQLAlchemy, not {type(connection).__qualname__}."
    )


async def _asyncpg(connection: Any, statement: str, arguments: tuple[str, ...], answer: Callable[[Any], T]) -> T:
    return answer(await connection.fetch(statement, *arguments))


async def _awaited(done: Any, answer: Callable[[Any], T]) -> T:
    rows = (await done).fetchall()
    return answer(await rows if inspect.isawaitable(rows) else rows)
