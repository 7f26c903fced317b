"""Why code of the operator's cannot be imported, in one sentence."""

import sysconfig
import traceback
from pathlib import Path

OWN = tuple(str(Path(__file__).parents[2] / package) for package in ("service", "treadle"))
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def reason_of(error: BaseException) -> str:
    """The error's text on one line and without its full stop, with the last line of the operator's own code."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    elif isinstance(error, SystemExit) and not isinstance(error.code, str):
        text = f"it exits with {error.code or 0}"
    if isinstance(error, SyntaxError):  # its text has the place
        return text
    places = [
        f"{text} ({Path(file).name}, line {line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(file := frame.f_code.co_filename).is_file() and not file.startswith(OWN + LIBRARIES)
    ]
    return places[-1] if places else text
