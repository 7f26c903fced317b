"""The image's HEALTHCHECK, for every command: `python -m service.local.health_check`.

A container with the API is healthy if its process answers; /health/ready, for load balancers, also asks the database.
The other commands serve no port: a worker that is stuck ends by itself, and with it its container.
"""

import urllib.request
from collections.abc import Mapping
from pathlib import Path

SERVING_COMMANDS = frozenset({"serve", "up"})
TIMEOUT_SECONDS = 3.0


def check(command_line: Path, environ: Mapping[str, str]) -> None:
    """Raises OSError if the container's first process, with this command line, serves the API and does not answer."""
    words = command_line.read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    if not SERVING_COMMANDS.isdisjoint(words):
        address = f"http://127.0.0.1:{environ.get('PORT', '8000')}/health/live"
        urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS)


if __name__ == "__main__":
    import os

    check(Path("/proc/1/cmdline"), os.environ)
