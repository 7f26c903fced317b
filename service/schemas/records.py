"""Checks the values of records against the newest version of a subject, before they are published."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from service.access.principal import Principal
from service.errors import Busy, Misfit, Refused, Unprocessable
from service.schemas.compatibility import json_schema
from service.schemas.errors import UnknownSubject
from service.schemas.model import CheckedRecord, Version
from service.schemas.registry import Registry

FRESH_SECONDS = 1.0  # for which a version is used without a look at whether it is the newest
MAX_KEPT = 1_000  # subjects, and topics

Check = Callable[[Any], tuple[str, str] | None]
"""The JSON pointer to what does not fit in a value, and why; None if all fits."""


Parse = Callable[[bytes], Any]
"""The canonical JSON of a Protobuf message in binary; raises ValueError."""


class _Checker(NamedTuple):
    version: Version
    check: Check
    read_at: float
    parse: Parse | None  # of a Protobuf schema


class RecordSchemas:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._checkers: dict[tuple[str, str], _Checker] = {}
        self._subjects: dict[tuple[str, str | None, str], tuple[str | None, float]] = {}

    async def read(self, principal: Principal, topic: str, values: Sequence[Any]) -> tuple[int | None, Sequence[Any]]:
        """The values as JSON, those in binary (`bytes`) read by the schema of the topic; and the id of the schema that
        all of them fit. Raises as `fit`, and Unprocessable where the topic has no Protobuf schema."""
        if not any(isinstance(value, bytes) for value in values):
            return await self.of_topic(principal, topic, values), values
        subject = await self._subject(principal, topic)
        parse = None if subject is None else (await self._checker(principal, subject)).parse
        if subject is None or parse is None:
            raise Unprocessable(f"The topic {topic!r} takes no Protobuf: its schema_subject has no Protobuf schema.")
        plain = []
        for number, value in enumerate(values):
            try:
                plain.append(parse(value) if isinstance(value, bytes) else value)
            except ValueError as error:
                place = f"records[{number}]: value" if len(values) > 1 else "value"
                raise Misfit(f"{place} is no message of the schema {subject!r}: {error}.", pointer="") from None
        return await self.fit(principal, subject, plain), plain

    async def of_topic(self, principal: Principal, topic: str, values: Sequence[Any]) -> int | None:
        """The id of the schema that all values fit; None where the topic needs none. Raises as `fit`."""
        subject = await self._subject(principal, topic)
        return None if subject is None else await self.fit(principal, subject, values)

    async def check(self, tenant: str, topic: str, value: Any) -> CheckedRecord:
        """Check a value that an agent of the tenant publishes. Raises Busy, Unavailable."""
        try:
            return CheckedRecord(await self.of_topic(Principal(tenant, frozenset(), "agent"), topic, [value]))
        except Busy:
            raise
        except Refused as error:
            return CheckedRecord(problem=str(error))

    async def _subject(self, principal: Principal, topic: str) -> str | None:
        key = (principal.tenant, principal.reach, topic)
        subject, read_at = self._subjects.get(key, (None, float("-inf")))
        if (now := time.monotonic()) - read_at >= FRESH_SECONDS:
            subject = await self._registry.store.subject_of_topic(principal, topic)
            if len(self._subjects) >= MAX_KEPT:
                self._subjects.clear()
            self._subjects[key] = (subject, now)
        return subject

    async def fit(self, principal: Principal, subject: str, values: Sequence[Any]) -> int:
        """The id of the schema that all values fit. Raises Misfit for the first that does not, and Unprocessable where
        the subject has no version that can be checked here."""
        checker = await self._checker(principal, subject)
        for number, value in enumerate(values):
            if (misfit := checker.check(value)) is not None:
                pointer, reason = misfit
                place = f"records[{number}]: value" if len(values) > 1 else "value"
                where = f" at {pointer}" if pointer else ""
                version = f"version {checker.version.version} of the schema {subject!r}"
                raise Misfit(f"{place}{where} does not fit {version}: {reason}.", pointer=pointer)
        return checker.version.schema_id

    async def _checker(self, principal: Principal, subject: str) -> _Checker:
        key = (principal.tenant, subject)
        known = self._checkers.get(key)
        now = time.monotonic()
        if known is not None and now - known.read_at < FRESH_SECONDS:
            return known
        try:
            version = await self._registry.store.version(principal, subject, None)
        except UnknownSubject:
            raise Unprocessable(f"The schema {subject!r} has no version: register one.") from None
        if known is not None and known.version.schema_id == version.schema_id:
            found = known._replace(version=version, read_at=now)
        else:
            imports = await self._registry.imports_of(principal, version.refs)
            check, parse = _compile(version, imports)
            found = _Checker(version, check, now, parse)
        if len(self._checkers) >= MAX_KEPT:
            self._checkers.clear()
        self._checkers[key] = found
        return found


def _compile(version: Version, imports: dict[str, Version]) -> tuple[Check, Parse | None]:
    try:
        if version.descriptor is None:
            others = {name: msgspec.json.decode(each.schema) for name, each in imports.items()}
            return json_schema.checker(json_schema.Document(msgspec.json.decode(version.schema), others)), None
        from service.schemas import protobuf_files, protobuf_values

        message, pool = protobuf_files.first_message(
            version.descriptor, {name: each.descriptor or b"" for name, each in imports.items()}
        )
        return protobuf_values.checker(message, pool), protobuf_values.parser(message, pool)
    except (ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise Unprocessable(f"Values of the schema {version.subject!r} cannot be checked here: {reason}.") from None
