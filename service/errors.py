"""Every error that this service raises on purpose: one class for each meaning.

    TreadleError                 HTTP status  SQLSTATE
    ├── ConfigError                                     a setting is missing or wrong
    ├── SchemaError              503                    the database is not migrated, or belongs to another release
    ├── Unavailable              503                    PostgreSQL did not serve a call; trying again may help
    │   ├── NotConnected                                ... because there is no connection to it
    │   │   └── AddressRejected                         ... and none to come: it refuses the address
    │   ├── TooSlow                                     ... because it did not answer in time
    │   ├── KeysAway                                    ... or the issuer of JWTs did not serve its keys
    │   └── SandboxAway                                 ... or the process that checks schemas has ended
    └── Refused                                         the request cannot be carried out; nothing was written
        ├── Invalid              400          TR400     the request is malformed
        │   └── BeyondEnd        400                    ... its offset is beyond the end of the topic
        ├── ForeignPage          403                    a page of an origin that CORS_ORIGINS lacks asks
        ├── Unauthorized         401                    the request has no key or token, or one that is not valid
        ├── Forbidden            403          TR403     the key or token does not allow the request
        ├── NotFound             404          TR404     there is no such message, thread, queue, agent, key or schema
        ├── Conflict             409          TR409     the state of the message or thread does not allow it
        │   ├── Busy             409                    another transaction is changing the same thing; try again
        │   └── LeaseLost        409                    a remote worker does not hold the lease that it names
        ├── TooLarge             413                    the body is larger than MAX_BODY_BYTES
        ├── QueryTooLong         414                    the query string has too many bytes or parameters
        ├── WrongMediaType       415                    the body has no Content-Type, or one that is not accepted
        ├── WrongHost            421                    the API is addressed by a name that ALLOWED_HOSTS lacks
        ├── TooManyRequests      429                    the client sends more, or holds more open, than it may
        ├── Unprocessable        422          TR422     a value in the request is not accepted
        │   ├── Misfit           422                    ... by the input of the agent
        │   └── NotStorable      422                    ... by PostgreSQL itself, now or later
        ├── LimitReached         429          TR430     the tenant has reached one of its limits; try again later
        └── QueueFull            429          TR429     the queue holds MAX_QUEUE_SIZE messages; try again later

`service/schemas/errors.py` has what the schema registry tells apart below NotFound, Conflict and Unprocessable.

The SQL functions raise the SQLSTATEs, `db.pool` turns each into its class, and `api.problems` turns a class into a
problem+json response. The text of an error is one sentence that names the problem and says what to do.
"""

import logging
import re
from typing import ClassVar

CAUSE_IN_LOG = "the cause is in the log of the API."
UNEXPECTED_DETAIL = f"The request failed in the service; {CAUSE_IN_LOG}"


class TreadleError(Exception):
    """The root. `str(error)` is one sentence for a person; `log_level` is the level at which a caller that handles the
    error logs it."""

    log_level: ClassVar[int] = logging.WARNING


class ConfigError(TreadleError):
    """A setting is missing or wrong."""


class SchemaError(TreadleError):
    """The database has no Treadle schema, or one that this release cannot work with."""

    status: ClassVar[int] = 503
    title: ClassVar[str] = "Database unavailable"
    retry_after: ClassVar[int | None] = 5  # seconds: migrations take longer than a reconnect


class Unavailable(TreadleError):
    """PostgreSQL cannot be reached or broke the call off; trying again may help."""

    status: ClassVar[int] = 503
    title: ClassVar[str] = "Database unavailable"
    retry_after: ClassVar[int | None] = 1  # seconds


class NotConnected(Unavailable):
    """There is no connection to PostgreSQL. `db.availability` logs that once for all calls that fail by it. `reason`
    has names and addresses, for logs and the terminal; clients see the text, which has none. `sent`: whether the
    statement may have run, because a connection broke before its answer came."""

    log_level = logging.DEBUG

    def __init__(self, reason: str, *, sent: bool = False) -> None:
        super().__init__("PostgreSQL cannot be reached: try again.")
        self.reason = reason
        self.sent = sent


class AddressRejected(NotConnected):
    """PostgreSQL answered, and refuses the user, the password, the database or an option of the address; or a setting
    keeps it from writing; or a pooler answered that needs other settings. A process that runs tries again, for an
    operator may change the server."""


class TooSlow(Unavailable):
    """PostgreSQL was reached, but did not answer within the time that a call of this size has."""


class KeysAway(Unavailable):
    """The keys that check a JWT could not be read; trying again may help."""

    title = "Keys unavailable"


class SandboxAway(Unavailable):
    """The child process that checks schemas could not start, or was ended; trying again may help."""

    title = "Check unavailable"


class Refused(TreadleError):
    """The request cannot be carried out; nothing was written."""

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"
    retry_after: ClassVar[int | None] = None  # seconds


class Invalid(Refused):
    """The request is malformed."""


class BeyondEnd(Invalid):
    """An offset is beyond the end of its topic, so it is of another log: of a deleted topic of the same name, or of
    records that a restore of the database has taken back. `first_offset` is the first one that is kept."""

    def __init__(self, text: str, first_offset: int) -> None:
        super().__init__(text)
        self.first_offset = first_offset


class ForeignPage(Refused):
    """A page of another origin asks, and CORS_ORIGINS lacks that origin."""

    status = 403
    title = "Forbidden"


class Unauthorized(Refused):
    """The request has no key or token, or one that is not valid."""

    status = 401
    title = "Unauthorized"


class Forbidden(Refused):
    """The key or token does not allow the request."""

    status = 403
    title = "Forbidden"


class NotFound(Refused):
    """There is no such message, thread, queue, agent, worker, topic, subscription, schema, webhook, key or tenant."""

    status = 404
    title = "Not found"


class Conflict(Refused):
    """The state of the message or thread does not allow the request."""

    status = 409
    title = "Conflict"


class Busy(Conflict):
    """Another transaction is changing the same thing; trying again will help. `held`: the thread that the other
    transaction holds, if PostgreSQL names it, as `tenant/thread_id`; or `tenant/`: what the tenant's writers share."""

    retry_after = 1

    def __init__(self, text: str, *, held: str | None = None) -> None:
        super().__init__(text)
        self.held = held


class LeaseLost(Conflict):
    """The remote worker does not hold the lease that it names: it must drop the attempt."""

    title = "Lease lost"


class TooLarge(Refused):
    """The body is larger than MAX_BODY_BYTES."""

    status = 413
    title = "Body too large"


class QueryTooLong(Refused):
    """The query string has more bytes, or more parameters, than any route takes."""

    status = 414
    title = "URI too long"


class WrongMediaType(Refused):
    """The body has no Content-Type, or one that is not accepted."""

    status = 415
    title = "Unsupported media type"


class WrongHost(Refused):
    """The API is addressed by a name that ALLOWED_HOSTS lacks."""

    status = 421
    title = "Misdirected request"


class Unprocessable(Refused):
    """The request is well-formed, but a value in it is not accepted."""

    status = 422
    title = "Unprocessable"


class Misfit(Unprocessable):
    """A message does not fit the input of its agent. `pointer` leads to the value in the message (RFC 6901)."""

    def __init__(self, text: str, *, pointer: str) -> None:
        super().__init__(text)
        self.pointer = pointer


class NotStorable(Unprocessable):
    """A value that PostgreSQL itself does not accept, now or later: text with U+0000, a number beyond its range, JSON
    that is nested too deeply."""


class TooManyRequests(Refused):
    """The client sends more requests, or holds more streams open, than it may."""

    status = 429
    title = "Too many requests"

    def __init__(self, text: str, *, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after  # type: ignore[misc]  # of this error, not of the class


class LimitReached(Refused):
    """The tenant has reached one of its limits; the sentence says when to try again.

    The limits are those of sql/42_limits.sql. `policy` and `state` are the values of the headers RateLimit-Policy and
    RateLimit.
    """

    status = 429
    title = "Tenant limit reached"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        limit, window, seconds = _LIMIT.search(text).groups()  # type: ignore[union-attr]  # a test compares them
        self.retry_after = int(seconds)  # type: ignore[misc]  # of this error, not of the class
        self.policy = f'"tenant";q={limit}' + (f";w={window}" if window else "")
        self.state = f'"tenant";r=0;t={seconds}'


_LIMIT = re.compile(r"may \w+ (\d+) \w+(?: in (\d+) seconds| queued): try again in (\d+) seconds?\.")


class QueueFull(Refused):
    """The queue holds MAX_QUEUE_SIZE messages."""

    status = 429
    title = "Queue full"
    retry_after = 5


BY_SQLSTATE: dict[str, type[Refused]] = {
    "TR400": Invalid,
    "TR403": Forbidden,
    "TR404": NotFound,
    "TR409": Conflict,
    "TR422": Unprocessable,
    "TR429": QueueFull,
    "TR430": LimitReached,
}
