"""Callers that may not meet, on topics, records, subscriptions and schemas: they use the same names, and each other's
record and schema ids."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule
from uuid_utils.compat import uuid7

from tests.support.access import bearer
from tests.support.access_machine import ANYONE, NAMES
from tests.support.access_model import Caller
from tests.support.access_streams import StreamMachine
from tests.support.sse_reader import Reader

RECORD = "record"  # values begin with their tenant, and do not look like the text of a submitted message
CHANGES = {
    "declare topic": ("PUT", "/topics/{}", {}),
    "delete topic": ("DELETE", "/topics/{}", None),
    "subscribe": ("PUT", "/subscriptions/{}", {"topics": "#", "agent": "echo", "from": "earliest"}),
    "pause": ("POST", "/subscriptions/{}/pause", None),
    "resume": ("POST", "/subscriptions/{}/resume", None),
    "seek": ("POST", "/subscriptions/{}/seek", {"to": "earliest"}),
    "unsubscribe": ("DELETE", "/subscriptions/{}", None),
}
MAKES = {"declare topic", "subscribe"}


class TopicMachine(StreamMachine):
    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.topics: dict[tuple[str, str], list[UUID]] = {}  # by tenant and name: the records in their order
        self.subscriptions: set[tuple[str, str]] = set()
        self.records: list[tuple[str, UUID]] = []  # with their tenants, also of deleted topics
        self.schemas: dict[tuple[str, str], int] = {}

    def sees_topic(self, caller: Caller, name: str) -> bool:
        return not caller.dead and caller.reach is None and (caller.tenant, name) in self.topics

    @rule(who=ANYONE, topic=NAMES, call=st.sampled_from(sorted(CHANGES)))
    def change_topics_and_subscriptions(self, who: int, topic: str, call: str) -> None:
        caller, name = self.caller(who), self.place(topic)
        place, (method, path, body) = (caller.tenant, name), CHANGES[call]
        there = place in (self.topics if "topic" in call else self.subscriptions)
        status, answer = self.ask(
            caller, method, path.format(name), seen=there, **({} if body is None else {"json": body})
        )
        if caller.dead or "operate" not in caller.scopes or caller.reach is not None:
            assert status == (401 if caller.dead else 403), (caller, call)
        elif not there and call not in MAKES:
            assert status == 404, (caller, call)
            assert answer["detail"] == f"There is no {path.split('/')[1].removesuffix('s')} '{name}'."
        else:
            assert status < 300, (caller, call, answer)
            self.note_change(call, place)

    def note_change(self, call: str, place: tuple[str, str]) -> None:
        match call:
            case "declare topic":
                self.topics.setdefault(place, [])
            case "delete topic":
                del self.topics[place]
            case "subscribe":
                self.subscriptions.add(place)
            case "unsubscribe":
                self.subscriptions.remove(place)

    @rule(who=ANYONE, topic=NAMES, keyed=st.booleans())
    def publish(self, who: int, topic: str, keyed: bool) -> None:
        caller, name = self.caller(who), self.place(topic)
        body = {"value": f"{caller.tenant} {RECORD}"} | ({"key": "k"} if keyed else {})
        there = (caller.tenant, name) in self.topics
        status, answer = self.ask(caller, "POST", f"/topics/{name}/records", json=body, seen=there)
        if caller.dead or "publish" not in caller.scopes or caller.thread or caller.message:
            assert status == (401 if caller.dead else 403), caller
        elif not there:
            assert (status, answer["detail"]) == (404, f"There is no topic '{name}'."), caller
        else:
            assert status == 202, (caller, answer)
            self.note_records(caller.tenant, name, [UUID(one["record_id"]) for one in answer["records"]])

    def note_records(self, tenant: str, name: str, ids: list[UUID]) -> None:
        self.topics[tenant, name] += ids
        self.records += [(tenant, id) for id in ids]

    @rule(who=ANYONE, topic=NAMES, call=st.sampled_from(("", "/records?offset=0&limit=1000", "/stream?from=earliest")))
    def read_a_topic(self, who: int, topic: str, call: str) -> None:
        """Exactly the records of the tenant's own topic."""
        self.on.run(self._sequence())
        caller, name = self.caller(who), self.place(topic)
        seen, own = self.sees_topic(caller, name), self.topics.get((caller.tenant, name), [])
        self.count("SSE" if "stream" in call else "HTTP", caller, seen)
        status, answer = self.on.run(self._read(caller, f"/topics/{name}{call}", len(own)))
        assert status == (401 if caller.dead else 200 if seen else 404), (caller, call)
        if status == 404:
            assert answer["detail"] == f"There is no topic '{name}'."
        elif status == 200 and call:
            assert [UUID(record["record_id"]) for record in answer["records"]] == own, (caller, call)
            assert {record["value"] for record in answer["records"]} <= {f"{caller.tenant} {RECORD}"}

    async def _sequence(self) -> None:
        while await self.on.sql.fetchval("select more from treadle.sequence_records(late => true)"):
            pass

    async def _read(self, caller: Caller, path: str, records: int) -> tuple[int, Any]:
        """The status, and the body; of a stream, so many events."""
        async with self.on.api.stream("GET", path, headers=bearer(caller.credential)) as answer:
            if answer.status_code == 200 and "/stream" in path:
                reader = Reader(answer)
                return 200, {"records": [(await reader.event()).data for _ in range(records)]}
            await answer.aread()
            return answer.status_code, answer.json()

    @rule(who=ANYONE, which=ANYONE)
    def find_a_record(self, who: int, which: int) -> None:
        if not self.records:
            return
        caller, (tenant, id) = self.caller(who), self.records[which % len(self.records)]
        there = any(id in records for records in self.topics.values())
        seen = not caller.dead and caller.reach is None and caller.tenant == tenant and there
        status, answer = self.ask(caller, "GET", f"/records/{id}", seen=seen)
        assert status == (401 if caller.dead else 200 if seen else 404), (caller, tenant)
        if status == 404:
            unknown = uuid7()
            refused = self.ask(caller, "GET", f"/records/{unknown}", seen=False)
            assert (status, str(answer).replace(str(id), "ID")) == (404, str(refused[1]).replace(str(unknown), "ID"))

    @rule(who=ANYONE, path=st.sampled_from(("topics", "subscriptions")))
    def list_topics_and_subscriptions(self, who: int, path: str) -> None:
        caller, there = self.caller(who), self.topics if path == "topics" else self.subscriptions
        status, answer = self.ask(caller, "GET", f"/{path}", seen=True)
        assert status == (401 if caller.dead else 200)
        if not caller.dead:
            own = {name for tenant, name in there if tenant == caller.tenant and caller.reach is None}
            listed = {one[path.removesuffix("s")] for one in answer}
            assert {name for name in listed if name[1:] == str(self.example)} == own, caller

    # Schemas

    @rule(who=ANYONE, subject=NAMES)
    def register_a_schema(self, who: int, subject: str) -> None:
        caller, name = self.caller(who), self.place(subject)
        body = {"schemaType": "JSON", "schema": f'{{"title": "{caller.tenant}"}}'}
        status, answer = self.ask(caller, "POST", f"/schema-registry/subjects/{name}/versions", json=body, seen=True)
        if caller.dead or "publish" not in caller.scopes or caller.reach is not None:
            assert status == (401 if caller.dead else 403), caller
        else:
            assert status == 200, (caller, answer)
            self.schemas[caller.tenant, name] = answer["id"]

    @rule(who=ANYONE, subject=NAMES, which=ANYONE)
    def read_a_schema(self, who: int, subject: str, which: int) -> None:
        """Of the tenant's own subject, and by the id of any."""
        caller, name = self.caller(who), self.place(subject)
        seen = (caller.tenant, name) in self.schemas and caller.reach is None
        status, answer = self.ask(caller, "GET", f"/schema-registry/subjects/{name}/versions/latest", seen=seen)
        assert status == (401 if caller.dead else 403 if caller.reach is not None else 200 if seen else 404), caller
        assert status != 200 or caller.tenant in answer["schema"]
        if self.schemas and not caller.dead and caller.reach is None:  # each tenant numbers its schemas by itself
            id = sorted(self.schemas.values())[which % len(self.schemas)]
            status, answer = self.ask(caller, "GET", f"/schema-registry/schemas/ids/{id}", seen=seen)
            assert status == 404 or caller.tenant in answer["schema"], (caller, answer)

    # Work

    @rule()
    def deliver(self) -> None:
        """A router makes messages of records."""
        self.on.run(self._sequence())
        self.on.run(self._deliver())

    async def _deliver(self) -> None:
        while await self.on.sql.fetchval("select again from treadle.deliver_records()"):
            pass

    def teardown(self) -> None:
        """Each message of a record belongs to the record's tenant."""
        super().teardown()
        query = (
            "select tenant, agent, body #>> '{}' as text from treadle.messages"
            " where body #>> '{}' like '% ' || $1 and split_part(body #>> '{}', ' ', 1) <> tenant"
        )
        assert self.on.run(self.on.sql.fetch(query, RECORD)) == []
