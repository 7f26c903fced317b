"""Refusals: whether the time of a 404 tells an id of another tenant, owner or key from an unknown one.

Every operation of the OpenAPI description that takes the id of a message, a thread or a key is asked in turns for both,
over HTTP, by callers that may not see the id. `ratio` is the median of the times for the other's id divided by the
median for unknown ids; `low` and `high` enclose it in 95 of 100 resamples. A ratio whose bounds exclude 1 by more than
the noise of the machine tells the two apart.
"""

import random
import re
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import uuid_utils.compat as uuid

from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.stage import Stage

ROOT_KEY = "the-first-key-of-the-benchmark-000000"
SCOPES = ["submit", "read", "operate"]
NAMES = ("message_id", "thread_id", "key_id")
WARMUP_CALLS = 20
BOOTSTRAP_RESAMPLES = 500
BODIES: dict[str, Any] = {"input": {"input": "x"}, "retry": {"step": "plan"}, "PATCH": {"metadata": {}}}
PATH_VALUES = {"agent": "noop", "name": "default", "tenant": "acme"}


async def run(stage: Stage) -> None:
    async with stage.base("refusals") as base:
        _, port = await base.processes.api(AUTH="required", TREADLE_KEY=ROOT_KEY)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            owned, strangers = await _prepare(client)
            description = (await client.get("/openapi.json")).json()
            for stranger, key in strangers.items():
                for method, path, ids in _operations(description):
                    if "key_id" in ids and stranger != "another tenant":
                        continue  # only a key without restrictions may ask about keys
                    found = await _measure(client, key, method, path, owned, stage.pick(300, 30))
                    stage.record(f"{method} {path}", found, part=f": {stranger}")


async def _prepare(client: httpx2.AsyncClient) -> tuple[dict[str, str], dict[str, str]]:
    """The ids of ann in the tenant acme, and callers that may not see them."""
    await _post(client, ROOT_KEY, "/tenants", {"tenant": "acme"})
    await _post(client, ROOT_KEY, "/tenants", {"tenant": "globex"})
    acme = await _post(client, ROOT_KEY, "/keys", {"tenant": "acme", "scopes": SCOPES})
    foreign = await _post(client, ROOT_KEY, "/keys", {"tenant": "globex", "scopes": [*SCOPES, "admin"]})
    limited = await _post(client, ROOT_KEY, "/keys", {"tenant": "acme", "scopes": SCOPES, "agents": ["hello"]})
    ann, bob = [
        (await _post(client, acme["key"], "/tokens", {"subject": name, "scopes": SCOPES}))["token"]
        for name in ("ann", "bob")
    ]
    for number in range(200):  # so that tables and indexes have some pages
        thread_id = f"tour-{number}"
        message = await _post(client, ann, "/messages", {"message": "x", "thread_id": thread_id, "agent": "noop"})
    owned = {"message_id": message["message_id"], "thread_id": thread_id, "key_id": acme["key_id"]}
    return owned, {"another tenant": foreign["key"], "another subject": bob, "another agent": limited["key"]}


async def _post(client: httpx2.AsyncClient, key: str, path: str, body: Any) -> dict[str, Any]:
    answer = await client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    if answer.status_code >= 400:
        raise BenchError(f"POST {path} was refused: {answer.text}")
    return dict(answer.json())


def _operations(description: dict[str, Any]) -> Iterator[tuple[str, str, set[str]]]:
    """Method, path, and the names of the ids in the path; without the one that answers the same for every id."""
    for path, item in sorted(description["paths"].items()):
        ids = set(re.findall(r"{(\w+)}", path)) & set(NAMES)
        for method in item:
            if ids and not path.startswith("/instances"):
                yield method.upper(), path, ids


async def _measure(
    client: httpx2.AsyncClient, key: str, method: str, path: str, owned: dict[str, str], times: int
) -> Figures:
    taken: dict[bool, list[float]] = {True: [], False: []}
    headers = {"Authorization": f"Bearer {key}"}
    body = BODIES.get(path.rsplit("/", 1)[-1], {}) if method == "POST" else BODIES.get(method)
    for number in range(times + WARMUP_CALLS):
        for is_owned in random.sample((True, False), 2):
            unknown = {"message_id": str(uuid.uuid7()), "thread_id": f"tour-{number + 1000}", "key_id": "0" * 12}
            address = path.format_map(PATH_VALUES | (owned if is_owned else unknown))
            began = time.perf_counter()
            answer = await client.request(method, address, headers=headers, json=body)
            if number >= WARMUP_CALLS:
                taken[is_owned].append((time.perf_counter() - began) * 1000)
            if answer.status_code != 404:
                raise BenchError(f"{method} {path} answered {answer.status_code} instead of 404.")
    ratios = sorted(
        _ratio(*([random.choices(part, k=times) for part in taken.values()])) for _ in range(BOOTSTRAP_RESAMPLES)
    )
    return {
        "other's": Figure(statistics.median(taken[True]), "ms"),
        "unknown": Figure(statistics.median(taken[False]), "ms"),
        "ratio": Figure(_ratio(taken[True], taken[False]), ""),
        "low": Figure(ratios[BOOTSTRAP_RESAMPLES // 40], ""),
        "high": Figure(ratios[-BOOTSTRAP_RESAMPLES // 40], ""),
    }


def _ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(first) / statistics.median(second)
