"""What steady loads cost in a second, as the benchmark measured it (`python -m bench --only capacity`)."""

from importlib import resources
from pathlib import Path

import msgspec

from service.errors import ConfigError

CASE = "capacity"
MIXED = "mixed: "  # how the names of rows begin that are not measured for a plan, but to compare a plan with


class Cost(msgspec.Struct, frozen=True):
    """Cores by kind of process, and bytes a second: of WAL, and by which the tables grow."""

    postgres: float = 0.0
    api: float = 0.0
    worker: float = 0.0
    wal: float = 0.0
    growth: float = 0.0


class Sample(msgspec.Struct, frozen=True):
    """A steady load on one API process and one worker process. Each figure is a rate: messages, tokens that agents
    emit, and tokens that streams deliver, in a second."""

    name: str
    messages: float
    tokens: float
    read_tokens: float
    cost: Cost

    @property
    def read_messages(self) -> float:
        """Messages whose stream is read, in a second."""
        return self.messages * self.read_tokens / self.tokens if self.tokens else 0.0


class Costs(msgspec.Struct, frozen=True):
    """`origin` says when and where they were measured, and beside how much other work."""

    origin: str
    samples: list[Sample]

    @property
    def measured(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.name.startswith(MIXED)]

    @property
    def mixed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.name.startswith(MIXED)]


class _Figure(msgspec.Struct):
    value: float


class _Row(msgspec.Struct):
    case: str
    name: str
    figures: dict[str, _Figure]


class _Machine(msgspec.Struct):
    cpu: str
    cores: int
    load_average: list[float]  # of the last 1, 5 and 15 minutes, before the first row


class _Report(msgspec.Struct):
    date: str
    machine: _Machine
    rows: list[_Row]


def read(path: Path | None = None) -> Costs:
    """The costs in a result of the benchmark; those that come with Treadle by default. Raises ConfigError."""
    if path is None:
        return parse((resources.files("service.capacity") / "costs.json").read_bytes(), "costs.json")
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error


def parse(text: bytes, name: str) -> Costs:
    """The costs in a result of the benchmark. `name` is that of the file. Raises ConfigError."""
    try:
        report = msgspec.json.decode(text, type=_Report)
        samples = [_sample(row) for row in report.rows if row.case == CASE]
    except (msgspec.DecodeError, KeyError) as error:
        raise ConfigError(f"{name} is no result of the benchmark: {error}.") from error
    machine = report.machine
    busy = f"load average {machine.load_average[0]:.1f} before it" if machine.load_average else "no load average"
    costs = Costs(f"{report.date[:10]}, {machine.cpu}, {machine.cores} cores, {busy}", samples)
    if not _is_complete(costs.measured):
        raise ConfigError(f"{name} has not all rows of the case {CASE}: run python -m bench --only {CASE}.")
    return costs


def _sample(row: _Row) -> Sample:
    figures = {name: figure.value for name, figure in row.figures.items()}
    cost = Cost(*(figures[name] for name in ("postgres", "api", "worker", "wal_rate", "growth")))
    return Sample(row.name, figures["messages"], figures["tokens"], figures["read_tokens"], cost)


def _is_complete(samples: list[Sample]) -> bool:
    return (
        any(not sample.messages for sample in samples)
        and any(sample.messages and not sample.tokens for sample in samples)
        and any(sample.tokens and not sample.read_tokens for sample in samples)
        and any(sample.read_tokens for sample in samples)
    )
