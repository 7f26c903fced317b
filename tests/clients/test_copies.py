"""The package treadle imports nothing of the service, so it repeats limits and vocabularies: the same ones."""

from typing import Any, get_args

import pytest

from service import limits
from service.access import principal
from service.leases import model as leases
from service.messages import model as messages
from service.protocols.leases import model as remote
from treadle import options
from treadle.client import model, producer, queues
from treadle.worker import attempt, consumer, protocol, session


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        (attempt.MAX_ERROR_CHARS, limits.MAX_ERROR_CHARS),
        (consumer.MAX_ERROR_CHARS, limits.MAX_ERROR_CHARS),
        (session.MAX_CLAIMED_MESSAGES, remote.MAX_CLAIMED_MESSAGES),
        (producer.MAX_BATCH_RECORDS, limits.MAX_BATCH_RECORDS),
        (queues.MAX_PAGE_ITEMS, limits.MAX_PAGE_ITEMS),
    ],
)
def test_a_limit_is_that_of_the_service(copy: int, original: int) -> None:
    assert copy == original


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        (model.State, messages.State),
        (model.Hold, messages.Hold),
        (model.Scope, principal.Scope),
        (options.Priority, messages.Priority),
        (options.OnBusy, messages.OnBusy),
        (protocol.Ending, remote.Ending),
        (protocol.VerdictKind, leases.VerdictKind),
    ],
)
def test_a_vocabulary_is_that_of_the_service(copy: Any, original: Any) -> None:
    assert get_args(copy) == get_args(original)
