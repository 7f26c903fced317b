"""Whether each record got one offset, was handled as its subscriptions say, and in the order of its key."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LOGGED = """
    select t.topic, g."offset", r.key, r.value #>> '{}' as value
    from treadle.topics t join treadle.topic_log g on g.topic = t.id left join treadle.records r using (record_id)
    order by t.topic, g."offset\""""
HANDLED = """
    select s.subscription, m.body #>> '{}' as value, m.state, m.thread, m.record_offset
    from treadle.messages m join treadle.subscriptions s on s.id = m.subscription
    order by m.thread, m.ord"""


def logged(published: Iterable[str], rows: Sequence[Any], topic: str) -> list[str]:
    """Each acknowledged record has one offset; those of a key have theirs in the order of their publishing."""
    wrong = []
    found = [row for row in rows if row["topic"] == topic]
    counts = Counter(row["value"] for row in found)
    wrong += [f"{value}: acknowledged, but not in the topic" for value in published if not counts[value]]
    wrong += [f"{value}: {count} offsets" for value, count in counts.items() if count > 1]
    if [row["offset"] for row in found] != list(range(len(found))):
        wrong.append(f"the offsets of {topic} are not dense")
    by_key: dict[str, list[str]] = defaultdict(list)
    for row in found:
        if row["key"] is not None:
            by_key[row["key"]].append(row["value"])
    return wrong + [
        f"the records of the key {key} are out of order" for key, ours in by_key.items() if ours != sorted(ours)
    ]


def handled(
    rows: Sequence[Any], log: Sequence[Any], topics: Mapping[str, str], subscriptions: Iterable[str]
) -> list[str]:
    """Each record of the topic `in` completed once in each subscription, in the order of its key, and has one copy in
    the topic `out`. `rows` are in the order in which each thread ran."""
    records = {row["value"] for row in log if row["topic"] == topics["in"]}
    wrong = []
    for name in subscriptions:
        ends = Counter(row["value"] for row in rows if row["subscription"] == name and row["state"] == "completed")
        wrong += [f"{value}: {ends[value]} completions in {name}" for value in records if ends[value] != 1]
    by_thread: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if row["thread"] is not None:
            by_thread[row["thread"]].append(row["record_offset"])
    wrong += [f"the thread {thread} ran out of order" for thread, ours in by_thread.items() if ours != sorted(ours)]
    copies = Counter(row["value"] for row in log if row["topic"] == topics["out"])
    wrong += [f"{value}: {copies[value]} copies" for value in records if copies[value] != 1]
    return wrong
