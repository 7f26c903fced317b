"""An agent that is a server of its own, in any language. This one needs nothing but Python; start it,

    python3 examples/remote.py

then a worker that asks it, from this repository's folder, and send it a message:

    AGENTS=examples.remote make up
    .venv/bin/treadle send "one two three" --agent counter --follow
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("COUNTER_PORT", "9000"))


class Counter(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = asked["message"].split()
        for number, word in enumerate(words, 1):
            self.tell("chunk", f"{number} {word} ")
        self.tell("done", {"result": len(words)})

    def tell(self, event: str, data: object) -> None:
        self.wfile.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Counter).serve_forever()
else:
    from treadle.adapters import http_agent

    counter = http_agent("counter", f"http://127.0.0.1:{PORT}/", timeout=60, description="Counts words.")
