"""Counters and histograms that a busy worker can afford: an observation takes a tenth of a microsecond. Those of
prometheus_client take some microseconds. They become its families when they are read.

A caller that counts often keeps the cells of its labels: to find them costs more than to count.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

Labels = tuple[str, ...]
Cell = list[int]  # of a counter: its only element is the count
Buckets = list[float]  # of a histogram: the count of each bucket, the last one without an end; and the sum of all


class Counter:
    """Counts, by the values of its labels."""

    def __init__(self, name: str, help: str, labels: Sequence[str]) -> None:
        self._name, self._help, self._labels = name, help, labels
        self._cells: dict[Labels, Cell] = {}
        if not labels:
            self.cell(())

    def cell(self, values: Labels) -> Cell:
        """The caller adds to its element."""
        return self._cells.setdefault(values, [0])

    def add(self, values: Labels, number: int = 1) -> None:
        self.cell(values)[0] += number

    def family(self) -> CounterMetricFamily:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, cell in list(self._cells.items()):
            family.add_metric(values, cell[0])
        return family


class Histogram:
    """Counts observations in buckets, by the values of its labels. `bounds`: the upper ends of the buckets."""

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._help, self._labels = name, help, labels
        self.bounds = tuple(bounds)
        self._ends = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._found: defaultdict[Labels, Buckets] = defaultdict(self._empty)

    def buckets(self, values: Labels) -> Buckets:
        """For `count`. Labels without an observation are in no family."""
        return self._found[values]

    def observe(self, values: Labels, value: float) -> None:
        found = self._found[values]
        found[bisect_left(self.bounds, value)] += 1
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
            if running:
                family.add_metric(values, buckets, total)
        return family

    def _empty(self) -> Buckets:
        return [0.0] * (len(self.bounds) + 2)
