"""Checks the values of records against the newest version of a subject, before they are published."""

import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from service.access.principal import Principal
from service.errors import Busy, Misfit, Refused, Unprocessable
from service.schemas import documents
from service.schemas.errors import UnknownSubject
from service.schemas.model import CheckedRecord, Version
from service.schemas.registry import Registry
from service.schemas.sandboxed.checks import KeyedSource
from service.schemas.sandboxed.questions import FirstMisfit

FRESH_SECONDS = 1.0  # for which a version is used without a look at whether it is the newest
MAX_KEPT = 1_000  # subjects, and topics
MAX_KEPT_BYTES = 50_000_000  # of schemas with what they import


class _Checker(NamedTuple):
    version: Version
    source: KeyedSource
    read_at: float


class RecordSchemas:
    """All methods raise Unavailable and Busy."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._checkers: dict[tuple[str, str], _Checker] = {}
        self._subjects: dict[tuple[str, str | None, str], tuple[str | None, float]] = {}

    async def read(self, principal: Principal, topic: str, values: Sequence[Any]) -> tuple[int | None, Sequence[Any]]:
        """The values as they are stored, and the id of the schema that all of them fit; None where the topic needs
        none. Raises as `fit`, and Unprocessable for a value in binary (`bytes`) where the topic has no Protobuf
        schema."""
        subject = await self._subject(principal, topic)
        has_binary = any(isinstance(value, bytes) for value in values)
        if has_binary and (subject is None or (await self._checker(principal, subject)).version.kind != "PROTOBUF"):
            raise Unprocessable(f"The topic {topic!r} takes no Protobuf: its schema_subject has no Protobuf schema.")
        return (None, values) if subject is None else await self.fit(principal, subject, values)

    async def prepare(self, tenant: str, topics: Collection[str]) -> None:
        """Look up what `check` needs for these topics, in two calls however many they are."""
        principal, now = Principal(tenant, frozenset(), "agent"), time.monotonic()
        keys = {topic: (tenant, principal.reach, topic) for topic in topics}
        stale = [topic for topic, key in keys.items() if not self._knows_subject(key, now)]
        if stale:
            found = await self._registry.store.subjects_of_topics(principal, stale)
            if len(self._subjects) + len(stale) > MAX_KEPT:
                self._subjects.clear()
            self._subjects |= {keys[topic]: (found.get(topic), now) for topic in stale}
        subjects = {self._subjects[key][0] for key in keys.values() if key in self._subjects}
        unknown = [subject for subject in subjects if subject is not None and not self._knows_version(tenant, subject)]
        if unknown:
            for subject, version in (await self._registry.store.newest(principal, unknown)).items():
                await self._keep(principal, subject, version)

    async def check(self, tenant: str, topic: str, value: Any) -> CheckedRecord:
        """Check a value that an agent of the tenant publishes. Raises Busy, Unavailable."""
        try:
            schema_id, [stored] = await self.read(Principal(tenant, frozenset(), "agent"), topic, [value])
        except Busy:
            raise
        except Refused as error:
            return CheckedRecord(problem=str(error))
        return CheckedRecord(schema_id, msgspec.UNSET if stored is value else stored)

    async def _subject(self, principal: Principal, topic: str) -> str | None:
        key = (principal.tenant, principal.reach, topic)
        subject, _ = self._subjects.get(key, (None, 0.0))
        if not self._knows_subject(key, now := time.monotonic()):
            subject = await self._registry.store.subject_of_topic(principal, topic)
            if len(self._subjects) >= MAX_KEPT:
                self._subjects.clear()
            self._subjects[key] = (subject, now)
        return subject

    def _knows_subject(self, key: tuple[str, str | None, str], now: float) -> bool:
        return key in self._subjects and now - self._subjects[key][1] < FRESH_SECONDS

    def _knows_version(self, tenant: str, subject: str) -> bool:
        known = self._checkers.get((tenant, subject))
        return known is not None and time.monotonic() - known.read_at < FRESH_SECONDS

    async def fit(self, principal: Principal, subject: str, values: Sequence[Any]) -> tuple[int, Sequence[Any]]:
        """The id of the schema that all values fit, and the values as they are stored: those of a Protobuf schema as
        its canonical JSON. Raises Misfit for the first that does not fit, and Unprocessable where the subject has no
        version that can be checked here."""
        checker = await self._checker(principal, subject)
        found = await self._registry.checks.fit(principal.tenant, checker.source, values)
        if not isinstance(found, FirstMisfit):
            return checker.version.schema_id, found
        if found.number is None:
            raise Unprocessable(f"Values of the subject {subject!r} cannot be checked here: {found.reason}.")
        place = f"records[{found.number}]: value" if len(values) > 1 else "value"
        where = f" at {found.pointer}" if found.pointer else ""
        version = f"version {checker.version.version} of the schema {subject!r}"
        raise Misfit(f"{place}{where} does not fit {version}: {found.reason}.", pointer=found.pointer)

    async def _checker(self, principal: Principal, subject: str) -> _Checker:
        if self._knows_version(principal.tenant, subject):
            return self._checkers[principal.tenant, subject]
        try:
            version = await self._registry.store.version(principal, subject, None)
        except UnknownSubject:
            raise Unprocessable(f"The subject {subject!r} has no version: register one.") from None
        return await self._keep(principal, subject, version)

    async def _keep(self, principal: Principal, subject: str, version: Version) -> _Checker:
        key, now = (principal.tenant, subject), time.monotonic()
        known = self._checkers.get(key)
        if known is not None and known.version.schema_id == version.schema_id:
            found = known._replace(version=version, read_at=now)
        else:
            imports = await self._registry.imports_of(principal, version.refs)
            found = _Checker(version, KeyedSource.of(documents.source_of(version, imports)), now)
            kept_bytes = sum(checker.source.size for checker in self._checkers.values())
            if len(self._checkers) >= MAX_KEPT or kept_bytes + found.source.size > MAX_KEPT_BYTES:
                self._checkers.clear()
        self._checkers[key] = found
        return found
