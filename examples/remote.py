"""An agent that runs as its own server, in any language. This file contains both sides.

Run these commands in this repository's folder. Start the server, which needs only Python's standard library:

    python3 examples/remote.py

In another terminal, start Treadle with an agent that calls the server, and send a message:

    AGENTS=examples.remote make up
    .venv/bin/treadle send "one two three" --agent counter --follow
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("COUNTER_PORT", "9000"))


class Counter(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = request["message"].split()
        for number, word in enumerate(words, 1):
            self.write_event("chunk", f"{number} {word} ")
        self.write_event("done", {"result": len(words)})

    def write_event(self, event: str, data: object) -> None:
        self.wfile.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Counter).serve_forever()
else:
    from treadle.adapters import http_agent

    counter = http_agent("counter", f"http://127.0.0.1:{PORT}/", timeout=60, description="Counts words.")
