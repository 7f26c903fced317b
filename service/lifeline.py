"""How a process started by `up` notices that its supervisor is gone, even by kill -9.

It inherits the read end of a pipe whose write end the supervisor alone holds: end of file means that nobody does now.
"""

import os
import signal
import threading
from collections.abc import Mapping

VARIABLE = "TREADLE_SUPERVISOR_FD"


def follow_supervisor(environ: Mapping[str, str]) -> None:
    """Have this process sent SIGTERM when its supervisor is gone; without a supervisor, do nothing. Call it once."""
    if VARIABLE not in environ:
        return
    lifeline = int(environ[VARIABLE])
    os.set_inheritable(lifeline, False)
    threading.Thread(target=_follow, args=(lifeline,), name="lifeline", daemon=True).start()


def _follow(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
