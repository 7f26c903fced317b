"""Subjects, versions and schemas in PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record

from service.access.principal import Principal
from service.db.pages import read_page
from service.db.pool import Database
from service.limits import PAGE_ITEMS
from service.schemas.documents import Document
from service.schemas.errors import UnknownSchema, UnknownSubject, UnknownVersion
from service.schemas.model import ALL_SUBJECTS, Head, Newest, NewSchema, Reference, Registered, Rule, Version

COLUMNS = """
    o.subject, o.version, o.schema_id, o.kind, o.schema, o.refs, o.extras, o.descriptor, o.digest,
    o.deleted_at is not null as deleted"""
HEAD = "o.subject, o.version, o.digest, o.deleted_at is not null as deleted"
PROPERTIES = "o.extras #> '{metadata,properties}'"
MAX_LISTED = 10_000  # names of a list: as many as a tenant may have
# A subject whose newest version is deleted has no other one: those that are not deleted come first.
SUBJECTS = """
    select n.subject
    from (
        select distinct on (o.subject) o.subject, o.deleted_at
        from treadle.schema_overview o
        where o.tenant = $1
            and starts_with(o.subject, $2)
            and ($3 or o.deleted_at is null)
        order by o.subject, o.deleted_at is not null, o.version desc
    ) n
    where not $4 or n.deleted_at is not null
    order by n.subject
    offset $5
    limit $6"""
NEWEST_PAGE = """
    select distinct on (o.subject) o.subject, o.version, o.schema_id, o.kind, o.digest,
        o.deleted_at is not null as deleted
    from treadle.schema_overview o
    where o.tenant = $1
        and ($2::text is null or o.subject > $2)
        and ($3 or o.deleted_at is null)
    order by o.subject, o.deleted_at is not null, o.version desc
    limit $4"""


class SchemaStore:
    """`deleted`: also those versions that are deleted, but not permanently."""

    def __init__(self, database: Database, *, reads: Database | None = None) -> None:
        self._database = database
        self._reads = reads or database

    async def register(
        self, principal: Principal, subject: str, new: NewSchema, document: Document, latest: int
    ) -> Registered | None:
        """None where `latest` is not the newest version any more. Raises Unprocessable, Conflict, Busy."""
        row = await self._database.fetchrow(
            "select schema_id, version from treadle.register_schema(subject => $1, kind => $2, body => $3,"
            " digest => $4, latest => $5, refs => $6::jsonb, extras => $7::jsonb, descriptor => $8, tenant => $9)",
            subject,
            new.kind,
            new.schema,
            document.digest,
            latest,
            _json(new.refs),
            None if new.extras is None else _json(new.extras),
            document.descriptor,
            principal.tenant,
        )
        assert row is not None
        if row["version"] is None:
            return None
        return Registered(row["schema_id"], row["version"], document.digest)

    async def heads(self, principal: Principal, subject: str, *, deleted: bool = False) -> list[Head]:
        """Of all versions of a subject, the oldest first; raises UnknownSubject."""
        rows = await self._reads.fetch(
            f"select {HEAD} from treadle.schema_overview o where o.tenant = $1 and o.subject = $2"
            " and ($3 or o.deleted_at is null) order by o.version",
            principal.tenant,
            subject,
            deleted,
        )
        if not rows:
            raise UnknownSubject(f"There is no subject {subject!r}.")
        return msgspec.convert(rows, list[Head])

    async def version(
        self, principal: Principal, subject: str, number: int | None, *, deleted: bool = False
    ) -> Version:
        """One of a subject; None: the newest. Raises UnknownSubject, UnknownVersion."""
        row = await self._reads.fetchrow(
            f"select {COLUMNS} from treadle.schema_overview o where o.tenant = $1 and o.subject = $2"
            " and ($3::integer is null or o.version = $3) and ($4 or o.deleted_at is null)"
            " order by o.version desc limit 1",
            principal.tenant,
            subject,
            number,
            deleted,
        )
        if row is None:
            await self.heads(principal, subject, deleted=deleted)
            raise UnknownVersion(f"The subject {subject!r} has no version {number}.")
        return _version(row)

    async def versions(self, principal: Principal, subject: str, numbers: Sequence[int]) -> list[Version]:
        """Those of these versions of a subject that there still are, also deleted ones; the newest first."""
        rows = await self._reads.fetch(
            f"select {COLUMNS} from treadle.schema_overview o where o.tenant = $1 and o.subject = $2"
            " and o.version = any($3::integer[]) order by o.version desc",
            principal.tenant,
            subject,
            list(numbers),
        )
        return [_version(row) for row in rows]

    async def with_properties(
        self, principal: Principal, subject: str, properties: Mapping[str, str], *, deleted: bool = False
    ) -> Version:
        """The newest version of a subject with these properties in its metadata. Raises UnknownSubject,
        UnknownSchema."""
        row = await self._reads.fetchrow(
            f"select {COLUMNS} from treadle.schema_overview o where o.tenant = $1 and o.subject = $2"
            " and ($3 or o.deleted_at is null)"
            f" and case when jsonb_typeof({PROPERTIES}) = 'object' then {PROPERTIES} else '{{}}' end @> $4::jsonb"
            " order by o.version desc limit 1",
            principal.tenant,
            subject,
            deleted,
            _json(properties),
        )
        if row is None:
            await self.heads(principal, subject, deleted=deleted)
            raise UnknownSchema("No version of the subject has this metadata.")
        return _version(row)

    async def heads_of_schema(self, principal: Principal, schema_id: int, *, deleted: bool) -> list[Head]:
        """Of the versions that have a schema; raises UnknownSchema."""
        rows = await self._reads.fetch(
            f"select {HEAD} from treadle.schema_overview o where o.tenant = $1 and o.schema_id = $2"
            " and ($3 or o.deleted_at is null) order by o.subject, o.version",
            principal.tenant,
            schema_id,
            deleted,
        )
        if not rows:
            raise UnknownSchema(f"There is no schema {schema_id}.")
        return msgspec.convert(rows, list[Head])

    async def of_schema(self, principal: Principal, schema_id: int, subject: str | None = None) -> Version:
        """The last version that has a schema: of this subject, if one of its versions has it. Raises UnknownSchema."""
        row = await self._reads.fetchrow(
            f"select {COLUMNS} from treadle.schema_overview o where o.tenant = $1 and o.schema_id = $2"
            " order by coalesce(o.subject = $3, false) desc, o.subject desc, o.version desc limit 1",
            principal.tenant,
            schema_id,
            subject,
        )
        if row is None:
            raise UnknownSchema(f"There is no schema {schema_id}.")
        return _version(row)

    async def of_digest(self, principal: Principal, digest: UUID) -> Version:
        """A version that has this schema; raises UnknownSchema."""
        row = await self._reads.fetchrow(
            f"select {COLUMNS} from treadle.schema_overview o where o.tenant = $1 and o.digest = $2 limit 1",
            principal.tenant,
            digest,
        )
        if row is None:
            raise UnknownSchema(f"There is no schema {digest}.")
        return _version(row)

    async def subjects(
        self,
        principal: Principal,
        prefix: str = "",
        *,
        deleted: bool = False,
        only_deleted: bool = False,
        offset: int = 0,
        limit: int = MAX_LISTED,
    ) -> list[str]:
        """The names of the subjects that begin with the prefix, in their order, at most MAX_LISTED. `deleted`: also of
        those whose versions are all deleted; `only_deleted`: only of these."""
        rows = await self._reads.fetch(
            SUBJECTS,
            principal.tenant,
            prefix,
            deleted or only_deleted,
            only_deleted,
            offset,
            min(limit, MAX_LISTED),
        )
        return [row["subject"] for row in rows]

    async def page(
        self, principal: Principal, after: str | None = None, limit: int = PAGE_ITEMS, *, deleted: bool = False
    ) -> tuple[list[Newest], str | None]:
        """The newest version of each subject, by the names of the subjects behind `after`, and the last name where
        others follow."""

        async def read(after: str | None, quantity: int) -> list[Record]:
            return await self._reads.fetch(NEWEST_PAGE, principal.tenant, after, deleted, quantity)

        rows, following = await read_page(read, lambda row: str(row["subject"]), after=after, limit=limit)
        return msgspec.convert(rows, list[Newest]), following

    async def subject_of_topic(self, principal: Principal, topic: str) -> str | None:
        """The subject that the topic's records must fit; None: none, or no topic to which the principal may publish."""
        found: str | None = await self._reads.fetchval(
            "select treadle.topic_subject($1, $2, $3::jsonb)", topic, principal.tenant, principal.reach
        )
        return found

    async def subjects_of_topics(self, principal: Principal, topics: Collection[str]) -> dict[str, str]:
        """The same for several topics: those that have a subject."""
        rows = await self._reads.fetch(
            "select topic, subject from treadle.topic_subjects($1, $2, $3::jsonb)",
            list(topics),
            principal.tenant,
            principal.reach,
        )
        return {row["topic"]: row["subject"] for row in rows}

    async def newest(self, principal: Principal, subjects: Collection[str]) -> dict[str, Version]:
        """The newest version of each of these subjects that has one."""
        rows = await self._reads.fetch(
            f"select distinct on (o.subject) {COLUMNS} from treadle.schema_overview o where o.tenant = $1"
            " and o.subject = any($2) and o.deleted_at is null order by o.subject, o.version desc",
            principal.tenant,
            list(subjects),
        )
        return {row["subject"]: _version(row) for row in rows}

    async def referrers(self, principal: Principal, subject: str, number: int) -> list[int]:
        """The ids of the schemas that refer to a version."""
        found: list[int] = await self._reads.fetchval(
            "select treadle.schema_references($1, $2, tenant => $3)", subject, number, principal.tenant
        )
        return found

    async def delete(self, principal: Principal, subject: str, number: int | None, *, permanent: bool) -> Sequence[int]:
        """The numbers of the deleted versions. Raises NotFound, Conflict, Busy."""
        found: Sequence[int] = await self._database.fetchval(
            "select treadle.delete_schemas($1, version => $2, permanent => $3, tenant => $4, actor => $5)",
            subject,
            number,
            permanent,
            principal.tenant,
            principal.name,
            repeatable=False,
        )
        return found

    async def rule(
        self, principal: Principal, rule: Rule, subject: str = ALL_SUBJECTS, *, inherited: bool = True
    ) -> Any:
        """None where neither the subject nor (where `inherited`) all subjects have it."""
        return await self._reads.fetchval(
            "select treadle.schema_rule($1, $2, tenant => $3, inherited => $4)",
            subject,
            rule,
            principal.tenant,
            inherited,
        )

    async def set_rule(self, principal: Principal, rule: Rule, value: str | None, subject: str = ALL_SUBJECTS) -> Any:
        """The former value. None removes the rule. Raises NotFound, Forbidden, Busy."""
        return await self._database.fetchval(
            "select treadle.set_schema_rule($1, $2, $3, tenant => $4, actor => $5)",
            subject,
            rule,
            value,
            principal.tenant,
            principal.name,
        )


def _version(row: Record) -> Version:
    return msgspec.convert({**row, "refs": msgspec.convert(row["refs"], tuple[Reference, ...])}, Version)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
