"""The record of a run: messages that clients sent, events that they saw, and faults with their times."""

from typing import Any

import msgspec


class Sent(msgspec.Struct):
    """A message that a client submitted. Times are in seconds since the epoch. `acknowledged` and `message_id` are None
    until the API has accepted it. `cancelled`: None if no client cancelled it, else the status of the answer (0: the
    answer was lost)."""

    key: str
    agent: str
    thread_id: str | None
    chunks: int
    began: float
    acknowledged: float | None = None
    message_id: str | None = None
    cancelled: int | None = None


class Seen(msgspec.Struct, frozen=True):
    """An event of a stream; `position` is its seq, or in a thread's stream its place in the thread. `id`: as it was
    sent."""

    position: int
    type: str
    data: Any
    id: str = ""


class Reading(msgspec.Struct):
    """All events that one reader saw, over all its connections.

    `over`: the server ended the stream. `port`: of the API that the reader is connected to, None without a connection.
    """

    message_id: str | None
    thread_id: str | None
    events: list[Seen] = msgspec.field(default_factory=list)
    connections: int = 0
    over: bool = False
    port: int | None = None


class Fault(msgspec.Struct):
    """One fault. Times are in seconds since the epoch; `ended` is 0 until it has ended.

    `lethal`: workers may be declared dead. `zombies`: such workers may live on. `cuts_off`: workers cannot reach
    PostgreSQL for a moment, too short to be declared dead. `where`: the node that is cut off, "" if it may be any.
    `keys`: the messages that do the damage; the fault lasts as long as they do. `detail`: why the fault had no effect,
    "" if it had one. `noticed`: seconds until the death of a worker was noticed. `clock_shift_seconds`: how far the
    clock of the database was moved while the fault lasted."""

    name: str
    began: float
    ended: float = 0.0
    lethal: bool = False
    zombies: bool = False
    cuts_off: bool = False
    where: str = ""
    keys: list[str] = msgspec.field(default_factory=list)
    detail: str = ""
    noticed: float | None = None
    clock_shift_seconds: float = 0.0


class Recovery(msgspec.Struct, frozen=True):
    """How long the service took to recover, in seconds."""

    what: str
    seconds: float


class History:
    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.published: list[str] = []  # the values of the records that were acknowledged
        self.readings: list[Reading] = []
        self.faults: list[Fault] = []
        self.recoveries: list[Recovery] = []
        self.client_errors: list[str] = []  # answers and errors that no client should see
        self.not_recovered: list[str] = []  # what did not come back after its fault was over
        self.retries = 0  # calls that a client repeated

    def add_client_error(self, what: str) -> None:
        if len(self.client_errors) < 1000:
            self.client_errors.append(what)
