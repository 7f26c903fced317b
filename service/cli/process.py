"""The command as a process: its standard streams, and the exit code for each way to end.

0    done
1    refused, or failed; also a message that failed or was cancelled
2    wrong arguments
74   the output cannot be written
75   PostgreSQL cannot be reached: try again later
130  interrupted (Ctrl-C)
141  the reader of the output has gone (a broken pipe)
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

import click

from service.errors import AddressRejected, NotConnected, TreadleError, Unavailable
from service.terminal import visible_line

INTERRUPTED_EXIT_CODE = 128 + 2  # as a shell reports SIGINT
BROKEN_PIPE = 128 + 13  # as a shell reports SIGPIPE
WRITE_ERRORS = frozenset({errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC})


class Failure(click.ClickException):
    """One sentence on stderr, and an exit code."""

    def __init__(self, message: str) -> None:
        super().__init__(visible_line(message))


class TryLater(Failure):
    exit_code = os.EX_TEMPFAIL


class OutputFailure(Failure):
    exit_code = os.EX_IOERR


def open_standard_streams() -> None:
    """Give closed standard streams a descriptor, so that no socket becomes one. Writing to a closed stdout fails, as it
    does elsewhere; what goes to a closed stderr is lost."""
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free descriptor, this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - open as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - the same


@contextlib.contextmanager
def one_sentence_per_error(hint: object = "") -> Iterator[None]:
    """End with the exit code of the error. `str(hint)` follows the sentence where PostgreSQL is away."""
    try:
        yield
    except AddressRejected as error:
        raise Failure(f"{error.reason}{hint}") from error
    except NotConnected as error:
        raise TryLater(f"{error.reason}{hint}") from error
    except Unavailable as error:
        raise TryLater(f"{error}{hint}") from error
    except TreadleError as error:
        raise Failure(str(error)) from error
    except UnicodeEncodeError as error:
        raise Failure("The arguments must be valid UTF-8.") from error
    except RecursionError as error:
        raise Failure("A value is nested too deeply to be shown.") from error
    except KeyboardInterrupt:
        try:
            click.echo(err=True)
        except OSError:
            _drop(sys.stderr)
        raise click.exceptions.Exit(INTERRUPTED_EXIT_CODE) from None
    except BrokenPipeError:
        _drop(sys.stdout)
        raise click.exceptions.Exit(BROKEN_PIPE) from None
    except OSError as error:
        if error.errno not in WRITE_ERRORS or error.filename is not None:
            raise
        _drop(sys.stdout)
        raise OutputFailure(f"The output cannot be written: {error.strerror}.") from error


def lose_sentence(error: OSError, code: int) -> NoReturn:
    """End with the exit code of a sentence that stderr could not take."""
    if error.errno not in WRITE_ERRORS or error.filename is not None:
        raise error
    _drop(sys.stderr)
    sys.exit(code)


def _drop(stream: TextIO) -> None:
    """Python writes the rest of a stream when it ends, and fails again where it cannot."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a test's stdout has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
