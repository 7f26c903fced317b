"""Fixtures of the tests of agents."""

import logging
from collections.abc import Iterator

import pytest

from service.logs import LIBRARIES


@pytest.fixture
def private_text(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Words of a person, which no line of the log has at the level INFO."""
    text = "the words of a person"
    caplog.set_level(logging.INFO)
    for library in LIBRARIES:  # as service/logs.py sets them
        caplog.set_level(logging.WARNING, library)
    yield text
    assert not [vars(record) for record in caplog.get_records("call") if text in str(vars(record))]
