"""How a process started by `up` notices that its supervisor is gone, even by kill -9.

It inherits the read end of a pipe whose write end the supervisor alone holds: end of file means that nobody does now.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping

VARIABLE = "TREADLE_SUPERVISOR_FD"


def follow_supervisor(environ: Mapping[str, str], patience: float) -> None:
    """Have this process sent SIGTERM when its supervisor is gone, and end it `patience` seconds later if it does not by
    itself; without a supervisor, do nothing. Call it once."""
    if VARIABLE not in environ:
        return
    lifeline = int(environ[VARIABLE])
    os.set_inheritable(lifeline, False)
    threading.Thread(target=_follow, args=(lifeline, patience), name="lifeline", daemon=True).start()


def _follow(lifeline: int, patience: float) -> None:
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience)
    os._exit(1)  # whatever holds it up, nobody is left who would kill it
