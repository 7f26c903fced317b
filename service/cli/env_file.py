"""The file `.env` of the working folder: settings, and other variables that agents read."""

import io
from pathlib import Path

from dotenv import load_dotenv
from dotenv.parser import Original, parse_stream

from service.errors import ConfigError

FILE = Path(".env")


def read() -> None:
    """Set the variables of the file in the environment of this process. A variable that is set already wins.

    Raises ConfigError with one sentence that names the line at fault.
    """
    try:
        if not FILE.exists() or FILE.is_dir():  # a folder of this name is a virtual environment
            return
        text = FILE.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"The file .env of this folder cannot be read: {reason}.") from None
    for found in parse_stream(io.StringIO(text)):
        has_no_value = found.key is not None and found.value is None
        if found.error or has_no_value or "\0" in found.original.string:
            raise ConfigError(f"Line {_line(found.original)} of the file .env of this folder must be NAME=value.")
    load_dotenv(stream=io.StringIO(text), override=False)


def _line(original: Original) -> int:
    """The number of the line on which a statement begins; blank lines before it are part of its text."""
    text = original.string
    return original.line + text[: len(text) - len(text.lstrip())].count("\n")
