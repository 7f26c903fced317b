"""A child of the supervisor in test_supervisor: reports its life on stdout, and behaves as its arguments say."""

import http.server
import os
import signal
import sys
from types import FrameType

from service.local.parent_watch import follow_supervisor, readiness

NAME = os.environ["TREADLE_SLOT"]


def say(what: str) -> None:
    os.write(1, f"{NAME} {what}\n".encode())  # one write: lines of several processes do not mix


def drain(number: int, frame: FrameType | None) -> None:
    if "deaf" in sys.argv:
        say("does not listen")
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


signal.signal(signal.SIGTERM, drain)
follow_supervisor(os.environ, float(os.environ.get("PATIENCE", "60")))
say(f"started as {os.getpid()} with {os.environ['DATABASE_URL']}")
if "waits" in sys.argv and not os.path.exists(sys.argv[-1]):
    sys.stderr.write("the database is not there\n")
    sys.exit(os.EX_TEMPFAIL)
if "fails" in sys.argv:
    say("has a reason to fail")
    sys.exit(3)
if "serve" in sys.argv:
    with http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Health) as server:
        server.serve_forever()
if "work" in sys.argv:
    readiness(os.environ)()
while "work" in sys.argv:
    signal.pause()
