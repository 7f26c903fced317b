"""Counters and histograms that a busy worker can afford: an observation takes a quarter of a microsecond. Those of
prometheus_client take some microseconds. They become its families when they are read."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

Labels = tuple[str, ...]


class Counter:
    """Counts, by the values of its labels."""

    def __init__(self, name: str, help: str, labels: Sequence[str]) -> None:
        self._name, self._help, self._labels = name, help, labels
        self.counts: defaultdict[Labels, int] = defaultdict(int)
        if not labels:
            self.counts[()] = 0

    def family(self) -> CounterMetricFamily:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in list(self.counts.items()):
            family.add_metric(values, count)
        return family


class Histogram:
    """Counts observations in buckets, by the values of its labels. `bounds`: the upper ends of the buckets."""

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._help, self._labels = name, help, labels
        self._bounds = tuple(bounds)
        self._ends = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._found: defaultdict[Labels, list[float]] = defaultdict(self._empty)

    def observe(self, values: Labels, value: float) -> None:
        found = self._found[values]
        found[bisect_left(self._bounds, value)] += 1
        found[-1] += value

    def family(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, found in list(self._found.items()):
            *counts, total = found.copy()
            running = 0.0
            buckets = []
            for end, count in zip(self._ends, counts, strict=True):
                running += count
                buckets.append((end, running))
            family.add_metric(values, buckets, total)
        return family

    def _empty(self) -> list[float]:
        """The count of each bucket, the last one without an end; and the sum of all values."""
        return [0.0] * (len(self._bounds) + 2)
