"""The subscriptions of the agents that declare topics: each has the name of its agent."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from service.db.pool import Database
from service.errors import Refused
from service.subscriptions.store import SubscriptionStore
from service.worker.persistence import persist_lookup

log = logging.getLogger(__name__)


async def follow_topics(database: Database, topics: Mapping[str, Sequence[str]]) -> None:
    """Create them, or change their topics. Where another transaction changes topics, it waits."""
    store = SubscriptionStore(database)
    for agent, patterns in topics.items():
        try:
            done = await persist_lookup("follow topics", partial(store.follow, agent, patterns))
        except Refused as error:
            log.error("an agent cannot subscribe to its topics", extra={"agent": agent, "error": str(error)})
            continue
        if done != "unchanged":
            log.info("an agent subscribes to its topics", extra={"agent": agent, "topics": ",".join(patterns)})
