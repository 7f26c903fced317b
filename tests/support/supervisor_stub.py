"""A child of the supervisor in test_supervisor: reports its life on stdout, and behaves as its arguments say."""

import http.server
import os
import signal
import sys
import time
from types import FrameType, SimpleNamespace

from service.local import parent_watch
from service.local.parent_watch import follow_supervisor, readiness

NAME = os.environ["TREADLE_SLOT"]


def say(what: str) -> None:
    os.write(1, f"{NAME} {what}\n".encode())  # one write: lines of several processes do not mix


# A signal that comes just before `signal.pause` would be handled at the next one: this pipe has a byte for each.
awake, waking = os.pipe()
os.set_blocking(waking, False)
signal.set_wakeup_fd(waking)
heard, hearing = os.pipe()


def drain(number: int, frame: FrameType | None) -> None:
    if "deaf" in sys.argv:
        say("does not listen")
        os.write(hearing, b"x")
        return
    if "slow" in sys.argv:
        say("drains slowly")
        with open(sys.argv[-1], encoding="utf-8") as pipe:  # until the test opens it
            pipe.read()
    say("drained")
    os._exit(0)


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in {"/health/live", "/health"} else 404)
        self.end_headers()
        self.wfile.write(b'{"workers": 1}')

    def log_message(self, *arguments: object) -> None:
        pass


def sleep(seconds: float) -> None:
    """The patience of a deaf child begins when it has heard the signal, however late it runs."""
    if "deaf" in sys.argv:
        os.read(heard, 1)
    time.sleep(seconds)


vars(parent_watch)["time"] = SimpleNamespace(sleep=sleep)
signal.signal(signal.SIGTERM, drain)
follow_supervisor(os.environ, float(os.environ.get("PATIENCE", "60")))
say(f"started as {os.getpid()} with {os.environ['DATABASE_URL']}")
if "waits" in sys.argv and not os.path.exists(sys.argv[-1]):
    sys.stderr.write("the database is not there\n")
    sys.exit(os.EX_TEMPFAIL)
if "fails" in sys.argv:
    if sys.argv[-1] != "fails":
        with open(sys.argv[-1], encoding="utf-8") as pipe:  # until the test opens it
            pipe.read()
    say("has a reason to fail")
    sys.exit(3)
if "serve" in sys.argv:
    with http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Health) as server:
        server.serve_forever()
if "work" in sys.argv:
    readiness(os.environ)()
while "work" in sys.argv:
    os.read(awake, 1)
