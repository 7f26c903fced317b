"""The router's chore: what a failed run was to do is done by the next one."""

from typing import Any

import pytest

from service.errors import Unavailable
from service.maintenance.route import Route
from service.maintenance.store import Deliveries, Sequenced


class Store:
    """Records the deliveries; raises `error` instead of what it names."""

    def __init__(self) -> None:
        self.failing = ""
        self.topics: list[int] = []
        self.sequenced = 0
        self.delivered: list[tuple[list[int] | None, list[str] | None]] = []

    async def sequence_records(self, _: bool) -> Sequenced:
        if self.failing == "sequence":
            raise Unavailable("away")
        self.sequenced += 1
        found, self.topics = self.topics, []
        return Sequenced(found, False)

    async def deliver_records(self, topics: list[int] | None, names: list[str] | None) -> Deliveries:
        if self.failing == "deliver":
            raise Unavailable("away")
        self.delivered.append((topics, names))
        return Deliveries(0, None, None)


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def route(store: Store) -> Route:
    """It has looked everywhere."""
    arrivals: Any = type("Arrivals", (), {"in_lanes": lambda *_: None, "in_topics": lambda *_: None})()
    made = Route(store, arrivals)  # type: ignore[arg-type]
    await made.run()
    assert store.delivered == [(None, None)]
    return made


async def fail(route: Route, store: Store, what: str) -> None:
    store.failing = what
    with pytest.raises(Unavailable):
        await route.run()
    store.failing = ""


@pytest.mark.parametrize("what", ["sequence", "deliver"])
async def test_the_names_of_a_failed_delivery_are_kept(route: Route, store: Store, what: str) -> None:
    route.sequence()
    route.deliver("default/s")
    await fail(route, store, what)
    route.deliver("default/t")
    await route.run()
    [(topics, names)] = store.delivered[1:]
    assert (topics, sorted(names or [])) == ([], ["default/s", "default/t"])


async def test_records_that_a_failed_run_has_sequenced_are_delivered(route: Route, store: Store) -> None:
    store.topics = [1]
    route.sequence()
    await fail(route, store, "deliver")
    await route.run()
    assert store.delivered[1:] == [(None, None)]


async def test_a_failed_look_everywhere_is_made_again(route: Route, store: Store) -> None:
    route.look_everywhere()
    await fail(route, store, "sequence")
    await route.run()
    assert (store.sequenced, store.delivered[1:]) == (2, [(None, None)])
