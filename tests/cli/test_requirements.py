"""A service that a test needs and does not find skips the test on a developer's machine and fails it in CI."""

from pathlib import Path

import pytest

from tests.support import programs
from tests.support.node_client import play
from tests.support.requirements import require_or_skip


def test_a_missing_service_skips_without_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^This test needs Chromium\.$"):
        require_or_skip(None, "Chromium")


def test_a_missing_service_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"^This test needs Chromium\.$"):
        require_or_skip(None, "Chromium")


def test_a_service_that_was_found_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    assert require_or_skip("/usr/bin/chromium", "Chromium") == "/usr/bin/chromium"


def test_a_missing_node_skips_before_its_program_is_a_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(programs, "TOOLS", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="make tools"):
        _ = play("a2a")
