"""Tests of your own agents.

    from agents import shout

    async def test_it_shouts(treadle_run):
        answer = await treadle_run(shout, "hello")
        assert answer.result == "HELLO"

The fixtures come with the package, as a plugin of pytest: a real PostgreSQL, started once for the run, an empty
database for each test, and a worker in the test's own process. `FakeContext` calls an agent without any of that.
"""

from treadle.testing.answer import Answer
from treadle.testing.context import FakeContext

__all__ = ["Answer", "FakeContext"]
