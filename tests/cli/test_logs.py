"""The form of the log, and what libraries must not write into it."""

import io
import json
import logging
import re
import sys
from datetime import UTC, datetime

import pytest

from service import logs


@pytest.fixture(autouse=True)
def keep_logging() -> object:
    """The log of the test run itself is configured by pytest."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_json_times_are_utc(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("service.test").info("told", extra={"text": "a\nb"})
    entry = json.loads(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry["time"])
    assert abs((datetime.now(UTC) - datetime.fromisoformat(entry["time"])).total_seconds()) < 600
    assert (entry["level"], entry["message"], entry["text"]) == ("info", "told", "a\nb")


def test_a_line_holds_one_record_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("service.test").warning("a\x1b[31m", extra={"path": "/x\n12:00:00 ERROR forged"})
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("service.test: a\\u001b[31m (path=/x\\u000a12:00:00 ERROR forged)")


def test_a_closed_stderr_fails_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    logs.configure("info", "text")
    closed.close()
    logging.getLogger("service.test").warning("lost")


@pytest.mark.parametrize("style", ["text", "json"])
def test_libraries_write_no_texts_of_people(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json" if style == "json" else "text")
    for name in (
        "autogen_core.events",
        "autogen_core",
        "autogen_agentchat",
        "openai._base_client",
        "anthropic",
        "httpx",
    ):
        logging.getLogger(name).info("what a person wrote")
        logging.getLogger(name).warning("a warning")
    said = capsys.readouterr().err
    assert "what a person wrote" not in said
    assert said.count("a warning") == 6


WRITTEN = "what a person wrote"
SECRETS = {
    "trd_4f2a_SECRET-SECRET": "***",
    "trt_SECRETSECRET": "***",
    "sk-ant-api03-SECRETSECRET": "***",
    "eyJSECRETSECRET.eyJSECRETSECRET.SECRET_-": "***",
    "GET /messages/x/stream?after=1&token=SECRET HTTP/1.1": "GET /messages/x/stream?after=1&token=*** HTTP/1.1",
    "Authorization: Bearer SECRET.x~y": "Authorization: Bearer ***",
    "authorization: basic U0VDUkVUOnNlY3JldA==": "authorization: basic ***",
    'said "Bearer SECRET\\" twice': 'said "Bearer ***\\" twice',
    "at postgresql://me:SECRET@db:5432/x": "at postgresql://***@db:5432/x",
}


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_looks_like_a_secret_is_hidden(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json" if style == "json" else "text")
    for secret, shown in SECRETS.items():
        logging.getLogger("service.test").warning("a %s", "line", extra={"text": secret})
        logging.getLogger("service.test").warning(secret)
        try:
            raise ValueError(secret)
        except ValueError:
            logging.getLogger("service.test").exception("failed")
        said = capsys.readouterr().err
        assert "SECRET" not in said
        if style == "json":
            first, second, third = map(json.loads, said.splitlines())
            assert (first["text"], second["message"]) == (shown, shown)
            assert third["traceback"].endswith(f"ValueError: {shown}")


@pytest.mark.parametrize("text", ["a task-list", "sk-etch", "the basic idea", "bearer", "http://host:8000/x", "trd_x"])
def test_other_texts_are_shown(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("service.test").warning(text)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_text_of_an_exception_that_a_library_logs_is_left_out(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "json" if style == "json" else "text")
    for name in ("autogen_core.runtime", "asyncio", "service.test"):
        try:
            raise ValueError(WRITTEN)
        except ValueError:
            logging.getLogger(name).exception("failed")
        said = capsys.readouterr().err
        assert "ValueError" in said
        assert "test_logs.py" in said
        assert (WRITTEN in said) is (name == "service.test")
