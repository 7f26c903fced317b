"""POSTs over keep-alive connections, as cases measure them: their rate, their times and what each item costs."""

from typing import Any

from bench import meter
from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.stage import CaseDatabase, Stage, rate

ROUND_LIMIT_SECONDS = 120.0


def posts(port: int, connections: int, requests: int, path: str, body: str, *, items: int = 1) -> dict[str, Any]:
    """The config of bench.clients.posts for requests of so many items each."""
    return {
        "port": port,
        "connections": connections,
        "requests": requests,
        "warmup": max(connections, min(200, requests // 10)) if items == 1 else 2,
        "path": path,
        "body": body,
    }


async def post(
    stage: Stage, base: CaseDatabase, name: str, config: dict[str, Any], size: int, times: int, what: str = "messages"
) -> None:
    """Record the posts of a config, each of `size` items."""

    async def once() -> Figures:
        client = await base.client("bench.clients.posts", config)
        before = await base.read()
        answer = await client.run(ROUND_LIMIT_SECONDS)
        after = await base.read()
        await client.stop()
        if answer["failed"]:
            raise BenchError(f"{answer['failed']} of {config['requests']} POSTs failed ({name}).")
        count = config["requests"] * size
        return (
            rate(count, answer["seconds"], what)
            | {"p50": Figure(answer["p50"], "ms"), "p99": Figure(answer["p99"], "ms")}
            | meter.cost(before, after, count)
        )

    await stage.repeat(name, times, once)
