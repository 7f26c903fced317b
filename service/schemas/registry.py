"""The registry: registers schemas that their subject allows, and explains refusals."""

from collections.abc import Sequence
from typing import Literal

from service.access.principal import Principal
from service.errors import Busy, Conflict, NotFound
from service.schemas import documents
from service.schemas.documents import Document
from service.schemas.errors import (
    IncompatibleSchema,
    InvalidSchema,
    ReadOnlySubject,
    ReferenceExists,
    SubjectDeleted,
    SubjectNotDeleted,
    UnknownSchema,
    UnknownSubject,
    UnknownVersion,
    VersionDeleted,
    VersionNotDeleted,
)
from service.schemas.model import DEFAULT_LEVEL, Head, Level, NewSchema, Reference, Registered, Source, Version
from service.schemas.sandboxed.checks import SchemaChecks
from service.schemas.sandboxed.questions import Pair
from service.schemas.store import SchemaStore

MAX_IMPORTS = 1_000  # of a schema, with those that these import
MAX_IMPORTED_BYTES = 5_000_000  # together
MAX_COMPARED = 1_000  # former schemas, with those that they import, unless there is only one
MAX_COMPARED_BYTES = 10_000_000  # of the pairs of a former version and the new schema; likewise
PORTION_VERSIONS = 10  # that are read at once
REGISTER_TRIES = 5  # while others register in the same subject
MAX_NAMED_REASONS = 10


class Registry:
    """All methods raise Unavailable, and those that change something Busy, Forbidden (suspended) and NotFound."""

    def __init__(self, store: SchemaStore, checks: SchemaChecks) -> None:
        self.store = store
        self.checks = checks

    async def register(self, principal: Principal, subject: str, new: NewSchema) -> Registered:
        """Make the schema the next version of the subject, unless a version has it already. Raises InvalidSchema,
        IncompatibleSchema, ReadOnlySubject, and Conflict for one more than the tenant or the subject may have."""
        document = await self._read(principal, new)
        for _ in range(REGISTER_TRIES):
            former = await self._versions(principal, subject)
            latest = former[-1].version if former else 0
            if not any(version.digest == document.digest for version in former):
                reasons = await self._reasons(principal, subject, document.source, former)
                if reasons:
                    raise IncompatibleSchema(_explain(subject, await self.level(principal, subject), reasons))
            try:
                registered = await self.store.register(principal, subject, new, document, latest)
            except Busy:
                raise
            except Conflict as error:
                if await self.store.rule(principal, "mode", subject) == "READONLY":
                    raise ReadOnlySubject(str(error)) from None
                raise
            if registered is not None:
                return registered
        raise Busy(f"Other clients are registering in the subject {subject!r}: try again.")

    async def look_up(self, principal: Principal, subject: str, new: NewSchema, *, deleted: bool = False) -> Version:
        """The newest version of the subject that has this schema; raises UnknownSubject, UnknownSchema,
        InvalidSchema."""
        versions = await self.store.heads(principal, subject, deleted=deleted)
        document = await self._read(principal, new)
        found = [version for version in versions if version.digest == document.digest]
        if not found:
            raise UnknownSchema(f"The subject {subject!r} does not have this schema.")
        return await self.store.version(principal, subject, found[-1].version, deleted=True)

    async def check(
        self, principal: Principal, subject: str, new: NewSchema, *, against: int | Literal["latest", "all"] = "all"
    ) -> list[str]:
        """Why the subject does not allow the schema as its next version; empty: it does. `against`: compare with this
        version only. Raises InvalidSchema, UnknownVersion."""
        document = await self._read(principal, new)
        former = await self._versions(principal, subject)
        if against == "latest":
            former = former[-1:]
        elif against != "all":
            former = [version for version in former if version.version == against]
            if not former:
                raise UnknownVersion(f"The subject {subject!r} has no version {against}.")
        return await self._reasons(principal, subject, document.source, former)

    async def level(self, principal: Principal, subject: str) -> Level:
        found: Level | None = await self.store.rule(principal, "compatibility", subject)
        return found or DEFAULT_LEVEL

    async def delete(
        self, principal: Principal, subject: str, number: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """The numbers of the deleted versions: one, or all of the subject. Raises what refuses it."""
        try:
            return await self.store.delete(principal, subject, number, permanent=permanent)
        except Busy:
            raise
        except Conflict as error:
            raise ReferenceExists(str(error)) from None
        except NotFound as error:
            raise await self._why_not_deleted(principal, subject, number, permanent, error) from None

    async def imports_of(self, principal: Principal, refs: Sequence[Reference]) -> dict[str, Version]:
        """The schemas that are imported, and those that these import, by their names. Raises InvalidSchema."""
        found: dict[str, Version] = {}
        size = 0
        waiting = list(refs)
        while waiting:
            reference = waiting.pop()
            if reference.name in found:
                continue
            try:
                version = await self.store.version(principal, reference.subject, reference.version, deleted=True)
            except NotFound:
                raise InvalidSchema(
                    f"The schema refers to version {reference.version} of {reference.subject!r}, which does not exist."
                ) from None
            found[reference.name] = version
            waiting += version.refs
            if len(found) > MAX_IMPORTS:
                raise InvalidSchema(f"The schema imports more than {MAX_IMPORTS} others.")
            size += len(version.schema)
            if size > MAX_IMPORTED_BYTES:
                raise InvalidSchema(f"The schema imports more than {MAX_IMPORTED_BYTES} bytes.")
        return found

    async def _read(self, principal: Principal, new: NewSchema) -> Document:
        imports = await self.imports_of(principal, new.refs)
        content = await self.checks.read(principal.tenant, documents.text_of(new, imports))
        return documents.document_of(new, content, imports)

    async def _versions(self, principal: Principal, subject: str) -> list[Head]:
        try:
            return await self.store.heads(principal, subject)
        except UnknownSubject:
            return []

    async def _reasons(self, principal: Principal, subject: str, new: Source, former: Sequence[Head]) -> list[str]:
        """Why the level of the subject forbids a change from the former versions to the new schema."""
        level = await self.level(principal, subject)
        if level == "NONE":
            return []
        compared = former if level.endswith("_TRANSITIVE") else former[-1:]
        pairs: dict[str, Pair] = {}  # by what they show
        for number, old in await self._sources(principal, subject, new, compared):
            if not level.startswith("FORWARD"):
                pairs[f"reading values of version {number}"] = Pair(reader=new, writer=old)
            if not level.startswith("BACKWARD"):
                pairs[f"version {number} reading new values"] = Pair(reader=old, writer=new)
        answers = await self.checks.compare(principal.tenant, list(pairs.values()))
        return [f"{title}: {reason}" for title, found in zip(pairs, answers, strict=True) for reason in found]

    async def _sources(
        self, principal: Principal, subject: str, new: Source, former: Sequence[Head]
    ) -> list[tuple[int, Source]]:
        """The former versions that the new schema is compared with, the newest first, by their numbers. One that is
        deleted for good meanwhile is left out. Raises InvalidSchema where they are too many."""
        found: list[tuple[int, Source]] = []
        schemas = size = 0
        numbers = [head.version for head in reversed(former)]
        for start in range(0, len(numbers), PORTION_VERSIONS):
            for version in await self.store.versions(principal, subject, numbers[start : start + PORTION_VERSIONS]):
                old = documents.source_of(version, await self.imports_of(principal, version.refs))
                found.append((version.version, old))
                schemas += 1 + len(old.imports)
                size += _size(old) + _size(new)
                if len(found) > 1 and (schemas > MAX_COMPARED or size > MAX_COMPARED_BYTES):
                    raise InvalidSchema(
                        f"The schema would be compared with all {len(former)} versions of {subject!r}, which are too"
                        f" many: at most {MAX_COMPARED} schemas and {MAX_COMPARED_BYTES} bytes are compared. Set a"
                        " compatibility that is not transitive."
                    )
        return found

    async def _why_not_deleted(
        self, principal: Principal, subject: str, number: int | None, permanent: bool, error: NotFound
    ) -> NotFound:
        versions = await self.store.heads(principal, subject, deleted=True)  # raises UnknownSubject
        if number is None:
            if permanent:
                return SubjectNotDeleted(f"Delete the subject {subject!r} first, and then permanently.")
            return SubjectDeleted(f"The subject {subject!r} is deleted already; permanent=true deletes it for good.")
        found = [version for version in versions if version.version == number]
        if not found:
            return UnknownVersion(f"The subject {subject!r} has no version {number}.")
        if permanent and not found[0].deleted:
            return VersionNotDeleted(f"Delete version {number} of {subject!r} first, and then permanently.")
        if found[0].deleted:
            return VersionDeleted(
                f"Version {number} of {subject!r} is deleted already; permanent=true deletes it for good."
            )
        return error


def _explain(subject: str, level: Level, reasons: list[str]) -> str:
    named = "; ".join(reasons[:MAX_NAMED_REASONS])
    more = f"; and {len(reasons) - MAX_NAMED_REASONS} more" if len(reasons) > MAX_NAMED_REASONS else ""
    return f"The schema breaks the compatibility {level} of {subject!r}: {named}{more}."


def _size(source: Source) -> int:
    return len(source.content) + sum(map(len, source.imports.values()))
