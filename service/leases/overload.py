"""Patience while a service that an agent needs is overloaded."""

import random

from service.config import Settings
from service.leases.model import Outcome
from service.limits import MAX_ERROR_CHARS

MAX_OVERLOAD_DELAY_SECONDS = 60.0  # unless the service asks for more


def put_off(reason: str, waited_seconds: float, settings: Settings, *, asked_seconds: float = 0.0) -> Outcome:
    """The outcome of an attempt that found a service overloaded: the message is put off without a failure, each time
    for about as long as it has waited so far, and for at least `asked_seconds`. Rejected once OVERLOAD_PATIENCE is
    over."""
    if waited_seconds >= settings.overload_patience:
        patience = f"{settings.overload_patience:g} seconds (OVERLOAD_PATIENCE)"
        return Outcome("rejected", error=f"{reason} This has lasted for more than {patience}."[:MAX_ERROR_CHARS])
    longest = min(settings.retry_max_seconds, MAX_OVERLOAD_DELAY_SECONDS)
    own = random.uniform(0.5, 1.0) * min(longest, max(2 * settings.retry_base_seconds, waited_seconds))
    return Outcome("overloaded", error=reason, delay_seconds=max(own, asked_seconds * random.uniform(1.0, 1.1)))
