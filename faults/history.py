"""What happened in a run, written down as it happens: what clients sent and saw, what was broken and when."""

from typing import Any

import msgspec


class Sent(msgspec.Struct):
    """A message a client submitted. Times are in seconds since the epoch; `acknowledged` is None until the API said
    that it has it, and `message_id` with it. `cancelled`: None where nobody cancelled it, else the status of the
    answer (0: the answer was lost)."""

    key: str
    agent: str
    thread_id: str | None
    chunks: int
    began: float
    acknowledged: float | None = None
    message_id: str | None = None
    cancelled: int | None = None


class Seen(msgspec.Struct, frozen=True):
    """An event as it came out of a stream; `position` is the seq, or in a thread's stream the place in the thread."""

    position: int
    type: str
    data: Any


class Reading(msgspec.Struct):
    """One reader's whole life, over all its connections. `over`: the stream came to its own end; `port`: of the API it
    is connected with, None while it is with none."""

    message_id: str | None
    thread_id: str | None
    events: list[Seen] = msgspec.field(default_factory=list)
    connections: int = 0
    over: bool = False
    port: int | None = None


class Fault(msgspec.Struct):
    """Something that was broken, when (seconds since the epoch; `ended` is 0 until it has), and what it can do:
    `lethal` where workers may be taken for dead by it, `zombies` where they may live on nevertheless, `cuts_off` where
    some cannot reach PostgreSQL, though not for long enough to be taken for dead. `where` is the node that is cut off,
    "" where all may be.

    `keys` are of the messages that do the damage: it lasts as long as they do. `detail` says why it did not do what its
    name says, and is empty where it did; `noticed` is the seconds until a death was noticed."""

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


class Recovery(msgspec.Struct, frozen=True):
    """How long something took until it was well again, in seconds."""

    what: str
    seconds: float


class History:
    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.readings: list[Reading] = []
        self.faults: list[Fault] = []
        self.recoveries: list[Recovery] = []
        self.complaints: list[str] = []  # answers that no client should ever get
        self.unwell: list[str] = []  # what was broken, mended, and did not come back
        self.retries = 0  # calls that a client had to repeat

    def complain(self, what: str) -> None:
        if len(self.complaints) < 1000:
            self.complaints.append(what)
