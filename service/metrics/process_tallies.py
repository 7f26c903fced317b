"""The counters and histograms of a process."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from service.metrics.tallies import Cell, Counter, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class CellsByLast(dict[str, Cell]):
    """The cells of a counter whose labels begin with these values, by the last value."""

    def __init__(self, counter: Counter, *first: str) -> None:
        self._counter, self._first = counter, first

    def __missing__(self, last: str) -> Cell:
        cell = self[last] = self._counter.cell((*self._first, last))
        return cell


class ProcessTallies:
    def __init__(self) -> None:
        work = ("queue", "agent")
        self.submitted = Counter(
            "treadle_messages_submitted", "Messages of clients, by the answer.", ("queue", "state")
        )
        self.claimed = Counter(
            "treadle_messages_claimed", "Messages that were leased, by this worker or by remote workers.", ("queue",)
        )
        self.attempts = Counter("treadle_attempts", "Attempts whose agent has ended.", (*work, "outcome"))
        self.finished = Counter("treadle_messages_finished", "Messages that have ended.", (*work, "state"))
        self.tokens = Counter(
            "treadle_tokens", "Tokens of models that attempts have counted, by the usage of agents.", (*work, "kind")
        )
        self.retries = Counter("treadle_retries", "Attempts that another one follows.", (*work, "outcome"))
        self.lost = Counter("treadle_leases_lost", "Attempts whose lease was no longer held at the end.", ("queue",))
        self.reaped = Counter("treadle_messages_reaped", "Messages taken back from dead workers.", ("queue",))
        self.admitted = Counter("treadle_messages_admitted", "Messages whose delay or backoff has ended.", ())
        self.delivered = Counter("treadle_records_delivered", "Records that became messages of subscriptions.", ())
        self.events = Counter("treadle_events_written", "Events that agents wrote into logs.", ())
        self.requests = Counter("treadle_http_requests", "Requests that were answered.", ("method", "route", "status"))
        self.calls = Counter("treadle_database_calls", "Round trips to PostgreSQL, by the error.", ("pool", "error"))
        self.opened = Counter("treadle_streams_opened", "Streams and sockets that were opened.", ("kind",))
        self.wait = Histogram(
            "treadle_message_wait_seconds", "From submit to the first start, by the worker's clock.", work, SECONDS
        )
        self.run = Histogram("treadle_attempt_run_seconds", "How long the agent of an attempt ran.", work, SECONDS)
        self.first_chunk = Histogram(
            "treadle_first_chunk_seconds", "From the start of an attempt to its first chunk.", work, SECONDS
        )
        self.request_seconds = Histogram(
            "treadle_http_request_seconds", "From a request to the head of its answer.", ("route",), CALL_SECONDS
        )
        self.call_seconds = Histogram(
            "treadle_database_call_seconds", "Of a round trip, with the wait for a connection.", ("pool",), CALL_SECONDS
        )
        self.batch = Histogram("treadle_batch_items", "Items of one call to PostgreSQL.", ("call",), ITEMS)

    def families(self) -> Iterator[Metric]:
        for tally in vars(self).values():
            assert isinstance(tally, Counter | Histogram)
            yield tally.family()


class WorkTallies:
    """The counts of the messages of a queue and an agent."""

    __slots__ = ("attempts", "claimed", "finished", "run", "wait")

    def __init__(self, tallies: ProcessTallies, queue: str, agent: str) -> None:
        self.claimed = tallies.claimed.cell((queue,))
        self.attempts = CellsByLast(tallies.attempts, queue, agent)  # by the outcome
        self.finished = CellsByLast(tallies.finished, queue, agent)  # by the state
        self.wait = tallies.wait.buckets((queue, agent))
        self.run = tallies.run.buckets((queue, agent))
