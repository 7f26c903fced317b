"""Requests and clients that other programs generate from /openapi.json. `make tools` installs the programs."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_client import Client
from tests.support.programs import NODE_MODULES, node, run_program, tool

TYPESCRIPT = Path(__file__).with_name("typescript")
REQUESTS_PER_OPERATION = int(os.environ.get("EXAMPLES", "8"))
EVENTS_READ = 4  # of a stream, then schemathesis closes it; it waits 10 seconds for events that do not come
HALF = "^/(messages|threads)"  # the paths of about half of the operations

# What schemathesis takes for faults:
#   positive_data_acceptance       no schema tells which agents are registered, or which cursors a list returned
#   use_after_free                 DELETE cancels a message, and its status can still be read
#   ensure_resource_availability   a repeat of an Idempotency-Key names the message of the first request, also after its
#                                  thread was deleted
EXCLUDED_CHECKS = "positive_data_acceptance,use_after_free,ensure_resource_availability"

# A long poll of an empty topic takes as long as it is asked to, and so does a claim of a worker that exists. The stream
# of changes has one event, and waits.
SCHEMATHESIS = f"""
max-stream-events = {EVENTS_READ}

[[operations]]
include-name = "GET /topics/{{topic}}/records"
parameters = {{ "query.wait" = 0 }}

[[operations]]
include-name = "GET /changes"
enabled = false

[[operations]]
include-name = "POST /workers/{{worker_id}}/claim"
parameters = {{ "path.worker_id" = "remote:none" }}
"""

PYTHON_CLIENT = """
import json, sys
from generated import Client
from generated.api.messages import get_message, submit_message, submit_messages
from generated.models import Accepted, AcceptedBatch, NewBatch, NewMessage, Problem, Status

client = Client(base_url=sys.argv[1])
least = NewMessage(message="hello from Python")
accepted = submit_message.sync(client=client, body=least, idempotency_key="python")
assert isinstance(accepted, Accepted), accepted
status = get_message.sync(accepted.message_id, client=client)
assert isinstance(status, Status), status
assert status.created_at.tzinfo is not None
batch = submit_messages.sync(client=client, body=NewBatch(messages=[least, least]))
assert isinstance(batch, AcceptedBatch), batch
refused = submit_message.sync(client=client, body=NewMessage(message="x", agent="poet"))
assert isinstance(refused, Problem), refused
print(json.dumps([status.state.value, status.user_message, len(batch.messages), refused.status]))
"""


@pytest.fixture
async def description(api: Client, tmp_path: Path) -> Path:
    """The folder that holds the description of the API."""
    (tmp_path / "openapi.json").write_bytes((await api.get("/openapi.json")).content)
    return tmp_path


async def test_a_generated_typescript_client_compiles_and_submits(api: Client, description: Path) -> None:
    for name in ("client.ts", "tsconfig.json"):
        shutil.copy(TYPESCRIPT / name, description)
    (description / "package.json").write_text('{"type": "module"}')
    (description / "node_modules").symlink_to(NODE_MODULES)
    await run_program(
        tool("node/node_modules/.bin/openapi-typescript"), "openapi.json", "-o", "api.d.ts", folder=description
    )
    await run_program(tool("node/node_modules/.bin/tsc"), "-p", ".", folder=description)
    printed = json.loads(await run_program(node(), "client.js", str(api.base_url), folder=description))
    assert printed == {"state": "queued", "text": "hello from TypeScript", "batch": 2, "events": 1, "refused": 422}


async def test_a_generated_python_client_compiles_and_submits(api: Client, description: Path) -> None:
    generate = ("generate", "--path", "openapi.json", "--output-path", "generated", "--meta", "none")
    said = await run_program(tool("python/bin/openapi-python-client"), *generate, folder=description)
    assert "Cannot parse" not in said  # what it cannot parse it leaves out
    await run_program(sys.executable, "-m", "compileall", "-q", "generated", folder=description)
    (description / "client.py").write_text(PYTHON_CLIENT)
    printed = json.loads(
        await run_program(tool("python/bin/python"), "client.py", str(api.base_url), folder=description)
    )
    assert printed == ["queued", "hello from Python", 2, 422]


@pytest.mark.long
@pytest.mark.parametrize("choice", ["include", "exclude"])
async def test_schemathesis_finds_no_fault(api_with_worker: Client, tmp_path: Path, choice: str) -> None:
    """It tries each operation with values inside and outside of every limit; half of the operations in each test."""
    message_id = await api_with_worker.submit("hello", thread_id="tour")
    assert len(await api_with_worker.events(message_id)) == EVENTS_READ
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    paths = (await api_with_worker.get("/openapi.json")).json()["paths"]
    operations = {path: len(methods) for path, methods in paths.items() if path != "/changes"}
    selected = sum(n for path, n in operations.items() if bool(re.search(HALF, path)) == (choice == "include"))
    options: dict[str, Any] = {
        f"{choice}-path-regex": HALF,
        "exclude-checks": EXCLUDED_CHECKS,
        "max-examples": REQUESTS_PER_OPERATION,
        "seed": 1,
        "request-timeout": 10,
    }
    said = await run_program(
        *(tool("python/bin/schemathesis"), "run", f"{api_with_worker.base_url}/openapi.json"),
        *(f"--{name}={value}" for name, value in options.items()),
        *("--continue-on-failure", "--no-color", "--warnings=off"),
        folder=tmp_path,
    )
    assert f"Operations:       {selected} selected / {sum(map(len, paths.values()))} total" in said
