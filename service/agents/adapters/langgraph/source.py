"""Makes the graph of an agent: from a compiled graph, a StateGraph, or a function that makes one of them."""

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any


class Source:
    """A function that takes the run's config is called for each attempt; one without arguments once. It may be async,
    or an async context manager, which is entered for each attempt."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._graph = None if callable(given) else _compiled(given)
        self._takes_config = callable(given) and _takes_argument(given)

    @property
    def graph(self) -> Any:
        """None if it is not made yet."""
        return self._graph

    @contextlib.asynccontextmanager
    async def made(self, config: dict[str, Any]) -> AsyncIterator[Any]:
        """Raises what the function raises."""
        if self._graph is not None:
            yield self._graph
            return
        made = self._given(config) if self._takes_config else self._given()
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aenter__"):
            async with made as graph:
                yield _compiled(graph)
            return
        graph = _compiled(made)
        if not self._takes_config:
            self._graph = graph
        yield graph


def _compiled(graph: Any) -> Any:
    return graph.compile() if hasattr(graph, "compile") else graph


def _takes_argument(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return any(one.default is one.empty for one in positional)
