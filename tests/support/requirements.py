"""Programs and services that a test needs and a machine may lack."""

import os
from typing import TypeVar

import pytest

Found = TypeVar("Found")


def require_or_skip(found: Found | None, needed: str) -> Found:
    """Return what was found. Where it is missing, skip the test, but fail it where the environment has CI set: there
    everything must run. `needed` ends the sentence "This test needs ..."."""
    if found is None:
        sentence = f"This test needs {needed}."
        if os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)
    return found
