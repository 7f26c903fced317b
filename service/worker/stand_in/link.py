"""The worker's side of its stand-in: start it, and tell it that the heartbeat runs."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time

from service.config import Settings
from service.worker.stand_in.process import Orders

log = logging.getLogger(__name__)

RESTART_SECONDS = 60.0  # between two starts, if it dies
# It searches for modules where the worker does.
SOURCE = """\
import sys
sys.path[:] = sys.argv[1:]
from service.worker.stand_in.process import main
main()
"""


class StandIn:
    """A process that sends this worker's heartbeats while agent code holds the GIL. It ends with this process."""

    def __init__(self, *, settings: Settings, dsn: str, lease_seconds: float) -> None:
        self._settings = settings
        self._dsn = dsn
        self._lease_seconds = lease_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._orders = b""
        self._started_at = 0.0

    def start(self, worker: str) -> None:
        settings = self._settings
        pause = min(settings.heartbeat_interval, settings.poll_interval)
        orders = Orders(
            dsn=self._dsn,
            pooler=settings.database_pooler == "transaction",
            worker=worker,
            lease_seconds=self._lease_seconds,
            interval_seconds=settings.heartbeat_interval,
            # Its start takes a second or two, and another worker's janitor waits for WORKER_TIMEOUT.
            patience_seconds=max(settings.worker_timeout * 0.4, pause * 1.2),
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        self._orders = json.dumps(orders).encode() + b"\n"
        self._start()

    def tell_alive(self) -> None:
        """The heartbeat runs. From any thread; never waits."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            os.write(self._process.stdin.fileno(), b".")
        except BlockingIOError:
            pass  # it is stopped, or has no time to read: it has bytes enough
        except OSError:
            if time.monotonic() - self._started_at > RESTART_SECONDS:
                log.warning("the worker's stand-in has died: starting another one")
                self.close()
                self._start()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(OSError):
                if self._process.stdin is not None:
                    self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        self._started_at = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SOURCE, *sys.path],
                stdin=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # a terminal's Ctrl-C must reach only the worker, which drains
            )
        except OSError:
            log.exception("no stand-in can be started: agent code that holds the GIL costs the worker its messages")
            return
        assert self._process.stdin is not None
        self._process.stdin.write(self._orders)
        os.set_blocking(self._process.stdin.fileno(), False)
