"""The settings of the server in an address of PostgreSQL: `options=-c name=value`, as the server reads it."""

import re
from collections.abc import Iterator

LEAST_TIMEOUT_SECONDS = 1.0  # with less, no call of ours would come to its end
LEAST_OF = ("statement_timeout", "transaction_timeout")
ISOLATION = "default_transaction_isolation"
_SECONDS = {"us": 1e-6, "": 1e-3, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def given(options: str) -> dict[str, str]:
    """Values by name. Raises ValueError for options that the server would not take, or with which no process of ours
    could work."""
    settings: dict[str, str] = {}
    words = _words(options)
    for word in words:
        if re.fullmatch("-[A-Zabd-z].*", word, re.DOTALL):  # another switch of the server
            if len(word) == len("-B"):
                next(words, None)  # its value
            continue
        assignment = next(words, "") if word == "-c" else word[2:]
        name, separator, value = assignment.partition("=")
        if word[:2] not in {"-c", "--"} or not separator or not name:
            raise ValueError(f"Expected options=-c%20name%3Dvalue, got {word!r}")
        settings[name.replace("-", "_").lower()] = value
    _check(settings)
    return settings


def _words(options: str) -> Iterator[str]:
    """A backslash takes the character behind it as it is, for example a space."""
    for match in re.finditer(r"(?:\\.|[^\\\s])+", options, re.DOTALL):
        yield re.sub(r"\\(.)", r"\1", match[0], flags=re.DOTALL)


def _check(settings: dict[str, str]) -> None:
    for name in LEAST_OF:
        found = re.fullmatch("([0-9.]{1,20}) ?([a-z]{0,3})", settings.get(name, "").strip())
        if found is None or found[2] not in _SECONDS or found[1].count(".") > 1 or not found[1].strip("."):
            continue  # not given, or the server refuses it
        if 0 < float(found[1]) * _SECONDS[found[2]] < LEAST_TIMEOUT_SECONDS:
            raise ValueError(f"Expected {name} in options of at least 1s, got {settings[name]!r}")
    if settings.get(ISOLATION, "read committed").strip().lower() != "read committed":
        raise ValueError(f"Expected no {ISOLATION} in options but 'read committed'")
