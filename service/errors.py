"""Every error this service raises on purpose, one class for each meaning.

    TreadleError                     status  SQLSTATE
    ├── ConfigError                          a setting is missing or wrong
    ├── SchemaError                          the database is not migrated, or by another release
    ├── Unavailable                  503     PostgreSQL cannot be reached, or did not answer in time
    │   └── Away                             ... because there is no connection to it
    └── Refused                              what was asked cannot be done; nothing was written
        ├── Invalid                  400     TR400   the request makes no sense
        ├── NotFound                 404     TR404   no such message, thread, queue, agent
        ├── Conflict                 409     TR409   not in this state
        ├── TooLarge                 413             the body is too big
        ├── Unprocessable            422     TR422   well-formed, but not acceptable
        └── QueueFull                429     TR429   try again later

The SQL functions raise the SQLSTATEs; `db.pool` turns each into its class, `api.problems` into a problem+json answer.
"""

import logging
from typing import ClassVar


class TreadleError(Exception):
    """The root: `str(error)` is one sentence for a person, `log_level` that at which who lives with it says so."""

    log_level: ClassVar[int] = logging.WARNING


class ConfigError(TreadleError):
    """A setting is missing or wrong."""


class SchemaError(TreadleError):
    """The database holds no Treadle schema, or one this release cannot work with."""


class Unavailable(TreadleError):
    """PostgreSQL cannot be reached or did not answer in time; trying again may help."""

    status: ClassVar[int] = 503
    title: ClassVar[str] = "Database unavailable"
    retry_after: ClassVar[int | None] = 1


class Away(Unavailable):
    """There is no connection to PostgreSQL; `db.availability` says so once for all whom it holds up."""

    log_level = logging.DEBUG


class TooSlow(Unavailable):
    """PostgreSQL was reached, and did not answer in the time that a call of this size is given."""


class Refused(TreadleError):
    """What was asked cannot be done; nothing was written."""

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"
    retry_after: ClassVar[int | None] = None


class Invalid(Refused):
    """The request makes no sense."""


class NotFound(Refused):
    """There is no such message, thread, queue or agent."""

    status = 404
    title = "Not found"


class Conflict(Refused):
    """The thing is not in a state that allows this."""

    status = 409
    title = "Conflict"


class Busy(Conflict):
    """Somebody else is at the same thing just now; trying again will help."""

    retry_after = 1


class TooLarge(Refused):
    """The body is larger than MAX_BODY_BYTES."""

    status = 413
    title = "Body too large"


class Unprocessable(Refused):
    """The request is well-formed, but a value in it is not acceptable."""

    status = 422
    title = "Unprocessable"


class QueueFull(Refused):
    """The queue holds MAX_QUEUE_SIZE messages."""

    status = 429
    title = "Queue full"
    retry_after = 5


BY_SQLSTATE: dict[str, type[Refused]] = {
    "TR400": Invalid,
    "TR404": NotFound,
    "TR409": Conflict,
    "TR422": Unprocessable,
    "TR429": QueueFull,
}
