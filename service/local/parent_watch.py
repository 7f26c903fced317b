"""How a process that `treadle up` started notices that its supervisor has died, even by kill -9, and how it tells that
it does its work.

Every child inherits the read end of a pipe. Only the supervisor holds the write end, so the children read end of file
when the supervisor ends. A child that is to take the place of another one writes to a second pipe.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

PARENT_PIPE_VARIABLE = "TREADLE_SUPERVISOR_FD"
READY_PIPE_VARIABLE = "TREADLE_READY_FD"
SLOT_VARIABLE = "TREADLE_SLOT"  # the name of this child among those of its supervisor, such as worker-2


def follow_supervisor(environ: Mapping[str, str], patience_seconds: float) -> None:
    """Send this process SIGTERM when its supervisor ends, and exit `patience_seconds` later if it still runs.

    Without a supervisor it does nothing. Call it once.
    """
    if PARENT_PIPE_VARIABLE not in environ:
        return
    pipe = int(environ[PARENT_PIPE_VARIABLE])
    os.set_inheritable(pipe, False)
    threading.Thread(target=_follow, args=(pipe, patience_seconds), name="parent-watch", daemon=True).start()


def readiness(environ: Mapping[str, str]) -> Callable[[], None]:
    """What tells the supervisor, if one waits for it, that this process does its work. Call it once, and the result at
    most once."""
    if READY_PIPE_VARIABLE not in environ:
        return lambda: None
    pipe = int(environ[READY_PIPE_VARIABLE])
    os.set_inheritable(pipe, False)

    def tell() -> None:
        with suppress(OSError):  # the supervisor has gone
            os.write(pipe, b"1")
        os.close(pipe)

    return tell


def _follow(pipe: int, patience_seconds: float) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience_seconds)
    os._exit(1)  # the supervisor, which would have killed this process, does not exist any more
