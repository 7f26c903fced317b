"""Ask child processes about the schemas of clients."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from service.sandbox import BeyondLimits, Sandbox
from service.schemas.errors import InvalidSchema
from service.schemas.model import Source
from service.schemas.sandboxed.questions import (
    Compare,
    Content,
    FirstMisfit,
    Fit,
    Fitting,
    Pair,
    Question,
    Read,
    Unknown,
    Value,
)

MODULE = "service.schemas.sandboxed"
CHECK_SECONDS = 2  # of processor time, for all values of a call
COMPARE_SECONDS = 10
MAX_CHECKING = 2  # children: so a tenant whose schemas take long does not hold up the others


class KeyedSource(NamedTuple):
    """`size`: of the source and of what it imports, in bytes."""

    key: bytes
    source: Source
    size: int

    @classmethod
    def of(cls, source: Source) -> "KeyedSource":
        encoded = msgspec.msgpack.encode(source)
        return cls(hashlib.sha256(encoded).digest(), source, len(encoded))


class SchemaChecks:
    """Shared by all of a process. The questions raise Busy and SandboxAway."""

    def __init__(self) -> None:
        self._checking = Sandbox(MODULE, cpu_seconds=CHECK_SECONDS, most=MAX_CHECKING)
        self._comparing = Sandbox(MODULE, cpu_seconds=COMPARE_SECONDS, most=1)

    async def compare(self, tenant: str, pairs: list[Pair]) -> list[list[str]]:
        """For each pair, why the reader does not read the writer's values. Raises InvalidSchema for schemas that cannot
        be compared within the limits."""
        if not pairs:
            return []
        try:
            answer = await self._comparing.ask(tenant, lambda: _encode(Compare(pairs)))
        except BeyondLimits as error:
            raise InvalidSchema(
                f"The schema cannot be compared with the former ones, for {error}: simplify it, or set the"
                " compatibility NONE."
            ) from None
        return msgspec.msgpack.decode(answer, type=list[list[str]])

    async def read(self, tenant: str, text: Source) -> bytes:
        """The content of a new schema. Raises InvalidSchema."""
        try:
            answer = await self._checking.ask(tenant, lambda: _encode(Read(text)))
        except BeyondLimits as error:
            raise InvalidSchema(f"The schema cannot be read, for {error}: simplify it.") from None
        found = msgspec.msgpack.decode(answer, type=Content | str)
        if isinstance(found, str):
            raise InvalidSchema(found)
        return found.content

    async def fit(self, tenant: str, source: KeyedSource, values: Sequence[Any]) -> list[Any] | FirstMisfit:
        """The values as they are stored, if all fit."""

        def ask(with_source: bool) -> bytes:
            return _encode(Fit(source.key, [_value(value) for value in values], source.source if with_source else None))

        try:
            found = await self._fit(tenant, lambda: ask(with_source=False))
            if isinstance(found, Unknown):
                found = await self._fit(tenant, lambda: ask(with_source=True))
        except BeyondLimits as error:
            return FirstMisfit(None, "", str(error))
        if isinstance(found, FirstMisfit):
            return found
        assert isinstance(found, Fitting)  # a child that has the source knows it
        pairs = zip(found.stored, values, strict=True)
        return [value if stored is None else msgspec.json.decode(stored) for stored, value in pairs]

    async def _fit(self, tenant: str, make_question: Callable[[], bytes]) -> Fitting | FirstMisfit | Unknown:
        answer = await self._checking.ask(tenant, make_question)
        return msgspec.msgpack.decode(answer, type=Fitting | FirstMisfit | Unknown)

    async def __aenter__(self) -> "SchemaChecks":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the children."""
        await self._checking.close()
        await self._comparing.close()


def _encode(question: Question) -> bytes:
    return msgspec.msgpack.encode(question)


def _value(value: Any) -> Value:
    return Value(value, is_binary=True) if isinstance(value, bytes) else Value(msgspec.json.encode(value), False)
