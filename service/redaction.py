"""Secrets that must not be in a log, whichever library writes the line."""

import re

HIDDEN = "***"

_SECRET = re.compile(
    r"tr[dt]_[\w-]{8,}|\bsk-[\w-]{16,}|(?<![\w-])eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # keys of Treadle and of models, JWTs
    r"|(?<=[?&]token=)[^\s&\"'\\]+"
    r"|(?<=\b(?i:bearer) )[^\s\"'\\]+|(?<=\b(?i:basic) )[A-Za-z0-9+/=_-]{8,}"
    r"|(?<=://)[^\s/@:\"'\\]*:[^\s/@\"'\\]+(?=@)"  # the user and the password in an address
)


def redact(text: str) -> str:
    return _SECRET.sub(HIDDEN, text)
