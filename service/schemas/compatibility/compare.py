"""Compare schemas in a child process with a deadline: some schemas take the library minutes, and hold the GIL."""

import asyncio
import sys

import msgspec

from service.errors import Unavailable
from service.schemas.compatibility.question import Answer, Pair, Question
from service.schemas.errors import InvalidSchema

TIMEOUT_SECONDS = 10.0
MODULE = "service.schemas.compatibility"


class Comparer:
    """Asks one child at a time: a comparison may take a whole core."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Semaphore(1)

    async def compare(self, pairs: list[Pair]) -> list[list[str]]:
        """For each pair, why the reader does not read the writer's values. Raises InvalidSchema for schemas that cannot
        be compared in time."""
        if not pairs:
            return []
        async with self._one_at_a_time:
            return await _ask(Question(pairs))


async def _ask(question: Question) -> list[list[str]]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", MODULE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answered, said = await child.communicate(msgspec.msgpack.encode(question))
    except TimeoutError:
        raise InvalidSchema(
            f"The schema cannot be compared with the former ones in {TIMEOUT_SECONDS:g} seconds: simplify it, or"
            " set the compatibility NONE."
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise Unavailable(f"The comparison of schemas failed: {said.decode(errors='replace').strip()[-300:]}.")
    return msgspec.msgpack.decode(answered, type=Answer).reasons
