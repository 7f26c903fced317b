"""Sessions that outlive the connections of a test: a later connection of this process takes one over.

A new session compiles and plans each function that it calls, which costs PostgreSQL ten times as much as the calls of a
test. So a connection that ends gives its session back, and the next one with the same settings takes it. In between the
session is what a new one is: without transaction, settings, role, prepared statements, listeners, locks and temporary
tables. Only its caches stay.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from asyncpg import connect_utils, protocol

OWNER = "treadle"  # the user of the addresses that the tests are given
IDLE_NAME = "idle between connections"  # the application name of a session that no connection has
MAX_IDLE = 12  # sessions of a database
ANSWER_SECONDS = 10.0
LATE_ANSWER_SECONDS = 0.1  # for a session whose connection was aborted, perhaps during a call
TERMINATE = b"X\x00\x00\x00\x04"
# `discard all`, without `discard plans`.
CLEAN_UP = f"""
    rollback; close all; set session authorization default; reset all; deallocate all; unlisten *;
    select pg_advisory_unlock_all(); discard sequences; discard temp; set application_name = '{IDLE_NAME}';
    select 'clean ' || 1"""
# A new session would have other settings where any are stored for its role or database.
TAKE_OVER = """
    reset application_name;
    select 'settings ' || count(*)
    from pg_db_role_setting s
    where s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
        and s.setrole in (0, (select r.oid from pg_roles r where r.rolname = session_user))"""

Key = tuple[Any, ...]


class _Session:
    """A session of the server. Its socket has a new owner each time: a connection's event loop, or this."""

    def __init__(self, key: Key, opened: socket.socket, greeting: bytes) -> None:
        """`greeting`: what the server answered to the startup message."""
        self.key = key
        self.socket = opened
        self.greeting = greeting
        self.pid = next(struct.unpack("!i", body[:4])[0] for kind, body in _messages(greeting) if kind == b"K")
        self.is_clean = False

    @property
    def database(self) -> str:
        return str(self.key[0])

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(TERMINATE)
        self.socket.close()

    def take_back(self) -> None:
        """Take the socket from its event loop, which closes its own handle, and send what cleans the session up."""
        self.socket = self.socket.dup()
        self.is_clean = False
        self._send(CLEAN_UP)

    def becomes_clean(self, seconds: float) -> bool:
        self.is_clean = self.is_clean or self._read(b"clean ", seconds) == b"1"
        return self.is_clean

    def can_be_taken_over(self) -> bool:
        if not self.becomes_clean(LATE_ANSWER_SECONDS):
            return False
        self._send(TAKE_OVER)
        return self._read(b"settings ", ANSWER_SECONDS) == b"0"

    def _send(self, statements: str) -> None:
        query = statements.encode() + b"\0"
        with contextlib.suppress(OSError):  # `_read` tells it
            self.socket.settimeout(ANSWER_SECONDS)
            self.socket.sendall(b"Q" + struct.pack("!i", len(query) + 4) + query)

    def _read(self, name: bytes, seconds: float) -> bytes | None:
        """Wait until the statements have run; returns what stands behind this name in their last row, or None if they
        failed. The answer to a call in whose midst the connection was aborted may come before."""
        received = b""
        try:
            self.socket.settimeout(seconds)
            while part := self.socket.recv(65536):
                received += part
                messages = list(_messages(received))
                if any(kind == b"E" for kind, _ in messages):
                    return None
                last_row = next((body for kind, body in reversed(messages) if kind == b"D"), b"")
                if messages and messages[-1][0] == b"Z" and name in last_row:
                    return last_row.rpartition(name)[2]
        except OSError:
            pass
        return None


class WarmSessions:
    """The sessions that no connection has, of the databases that were added. Connections in any thread may use it."""

    def __init__(self, port: int) -> None:
        """`port`: where the server listens on 127.0.0.1. Connections through a proxy have sessions of their own."""
        self._address = "127.0.0.1", port
        self._lock = threading.Lock()
        self._idle: dict[str, list[_Session]] = {}  # by database, the last used one at the end

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While asyncpg takes its sessions from here."""
        opener: Any = connect_utils
        original = opener._connect_addr

        async def connect(**arguments: Any) -> Any:
            return await self._connect(original, **arguments)

        opener._connect_addr = connect
        try:
            yield
        finally:
            opener._connect_addr = original

    def add(self, database: str) -> None:
        """From now on, sessions of this database are kept."""
        with self._lock:
            self._idle[database] = []

    def remove(self, database: str) -> None:
        """End the idle sessions of this database, and keep none any more."""
        with self._lock:
            sessions = self._idle.pop(database, [])
        for session in sessions:
            session.end()

    def idle_pids(self, database: str) -> list[int]:
        """The server's numbers of the sessions that are clean."""
        with self._lock:
            idle = self._idle.get(database, [])
            for session in [session for session in idle if not session.becomes_clean(LATE_ANSWER_SECONDS)]:
                idle.remove(session)
                session.end()
            return [session.pid for session in idle]

    def keep(self, session: _Session, *, at_once: bool) -> None:
        """Keep the session for the next connection. `at_once`: return when it is clean."""
        session.take_back()
        with self._lock:
            idle = self._idle.get(session.database)
            kept = (
                idle is not None
                and len(idle) < MAX_IDLE
                and not (at_once and not session.becomes_clean(ANSWER_SECONDS))
            )
            if kept and idle is not None:
                idle.append(session)
        if not kept:
            session.end()

    def _take(self, key: Key) -> _Session | None:
        while True:
            with self._lock:
                idle = self._idle.get(key[0], [])
                place = next((n for n in reversed(range(len(idle))) if idle[n].key == key), None)
                if place is None:
                    return None
                session = idle.pop(place)
            if session.can_be_taken_over():
                return session
            session.end()

    async def _connect(self, original: Callable[..., Any], **arguments: Any) -> Any:
        """As asyncpg's _connect_addr."""
        address, params = arguments["addr"], arguments["params"]
        has_own = params.user != OWNER or params.password or params.sslmode > connect_utils.SSLMode.prefer
        if address != self._address or params.database not in self._idle or has_own:
            return await original(**arguments)
        loop = arguments["loop"]
        connected = loop.create_future()
        speaker = cast("Any", protocol.Protocol)(address, connected, params, arguments["record_class"], loop)
        transport = _Transport(self, loop)
        speaker.connection_made(transport)
        key = (params.database, *sorted((params.server_settings or {}).items()))
        session = self._take(key) or await _open(loop, address, key, transport.startup_message)
        if session is None:
            return await original(**arguments)
        transport.session = session
        session.socket.setblocking(False)
        await loop.create_connection(lambda: _Adopter(speaker, transport), sock=session.socket)
        await connected
        connection = arguments["connection_class"](speaker, transport, loop, address, arguments["config"], params)
        speaker.set_connection(connection)
        return connection


class _Adopter(asyncio.Protocol):
    """Gives the transport of a session to asyncpg's protocol, with what the server once answered at its start."""

    def __init__(self, speaker: Any, transport: "_Transport") -> None:
        self._speaker = speaker
        self._transport = transport

    def connection_made(self, transport: Any) -> None:
        assert self._transport.session is not None
        self._transport.real = transport
        transport.set_protocol(self._speaker)
        self._speaker.data_received(self._transport.session.greeting)


class _Transport:
    """What asyncpg's protocol has for its transport. The message that ends a session ends the connection only."""

    def __init__(self, sessions: WarmSessions, loop: asyncio.AbstractEventLoop) -> None:
        self._sessions = sessions
        self._loop = loop
        self._closing: asyncio.Handle | None = None
        self.session: _Session | None = None
        self.real: Any = None
        self.startup_message = b""

    def write(self, data: Any) -> None:
        if self.real is None:
            self.startup_message += bytes(data)
        elif len(data) == len(TERMINATE) and bytes(data) == TERMINATE:
            self._closing = self._loop.call_soon(self._give_back)
        else:
            self.real.write(data)

    def writelines(self, buffers: Any) -> None:
        self.real.writelines(buffers)

    def abort(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._give_back(at_once=False)
        elif self.real is not None:
            self.real.abort()

    close = abort

    def is_closing(self) -> bool:
        return bool(self.real.is_closing())

    def pause_reading(self) -> None:
        self.real.pause_reading()

    def resume_reading(self) -> None:
        self.real.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self.real is None else self.real.get_extra_info(name, default)

    def _give_back(self, *, at_once: bool = True) -> None:
        assert self.session is not None
        if self.real.is_closing():
            return
        if self.real.get_write_buffer_size():
            self.real.write(TERMINATE)
        else:
            self._sessions.keep(self.session, at_once=at_once)
        self.real.abort()


async def _open(
    loop: asyncio.AbstractEventLoop, address: tuple[str, int], key: Key, startup_message: bytes
) -> _Session | None:
    """A new session; None where the server does not just let it in."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(opened, address)
        await loop.sock_sendall(opened, startup_message)
        greeting = b""
        while [kind for kind, _ in _messages(greeting)][-1:] != [b"Z"]:
            part = await loop.sock_recv(opened, 65536)
            greeting += part
            if not part or greeting[:1] == b"E":
                opened.close()
                return None
    except BaseException:
        opened.close()
        raise
    return _Session(key, opened, greeting)


def _messages(received: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The complete messages of the server: kind and content."""
    place = 0
    while place + 5 <= len(received):
        end = place + 1 + struct.unpack_from("!i", received, place + 1)[0]
        if end > len(received):
            return
        yield received[place : place + 1], received[place + 5 : end]
        place = end
