"""The login roles of two tenants, in SQL: they read views and call functions with each other's ids and thread names."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.support.access_machine import AGENTS, ANY_MESSAGE, NAMES
from tests.support.access_model import Caller, sees_message
from tests.support.access_topics import RECORD, TopicMachine

TENANTS = st.sampled_from(("acme", "globex"))
CALLS = {
    "cancel": "select treadle.cancel($1, patient => false)",
    "redrive": "select treadle.redrive($1, patient => false)",
    "input": "select treadle.input($1, '1', patient => false)",
}
READS = {
    "treadle.message_overview": "message_id",
    "treadle.messages": "message_id",
    "treadle.events": "message_id",
    "treadle.parked": "message_id",
    "treadle.leases": "message_id",
}
TOPIC_TABLES = st.sampled_from(("topic_overview", "subscription_overview", "records", "topic_log"))


class AccessMachine(TopicMachine):
    """The whole machine."""

    def ask_in_sql(self, tenant: str, query: str, *arguments: Any, seen: bool) -> tuple[str, Any]:
        """The SQLSTATE (empty: none), and the rows or the text of the error."""
        self.count("SQL", Caller("login", tenant), seen)
        try:
            return "", self.on.run(self.on.sessions[tenant].fetch(query, *arguments))
        except asyncpg.PostgresError as error:
            return error.sqlstate or "", str(error)

    @rule(tenant=TENANTS, which=ANY_MESSAGE, call=st.sampled_from(sorted(CALLS)), names_other=st.booleans())
    def use_a_message_in_sql(self, tenant: str, which: int, call: str, names_other: bool) -> None:
        message = self.some_message(which)
        if message is None:
            return
        query, seen = CALLS[call], sees_message(Caller("login", tenant), message)
        if names_other and message.tenant != tenant:
            query = query.replace(")", f", tenant => '{message.tenant}')")
        state, answer = self.ask_in_sql(tenant, query, message.id, seen=seen)
        if names_other and message.tenant != tenant:
            assert state == "42501"
        elif seen:
            assert state != "TR404", (tenant, call, message)
            message.may_be_cancelled |= call == "cancel"
        else:
            assert (state, answer) == ("TR404", f"There is no message {message.id}.")

    @rule(tenant=TENANTS, which=ANY_MESSAGE, table=st.sampled_from(sorted(READS)))
    def read_a_message_in_sql(self, tenant: str, which: int, table: str) -> None:
        message = self.some_message(which)
        if message is None:
            return
        seen = message.tenant == tenant
        rows = f"select message_id, tenant from {table} where message_id = $1 or tenant <> $2"
        state, found = self.ask_in_sql(tenant, rows, message.id, tenant, seen=seen)
        assert state == ""
        assert {tuple(row) for row in found} <= ({(message.id, tenant)} if seen else set()), (tenant, table)
        state, [position] = self.ask_in_sql(tenant, "select treadle.queue_position($1)", message.id, seen=seen)
        assert state == ""
        assert seen or position[0] is None

    @rule(tenant=TENANTS, thread=NAMES, agent=st.sampled_from(AGENTS), own_id=st.booleans(), which=ANY_MESSAGE)
    def submit_in_sql(self, tenant: str, thread: str, agent: str, own_id: bool, which: int) -> None:
        """Also under the id of a message of another."""
        name, message = self.place(thread), self.some_message(which)
        body = {"message": self.secret(tenant), "agent": agent, "thread_id": name}
        if not own_id and message is not None:
            body["message_id"] = str(message.id)
        state, found = self.ask_in_sql(
            tenant, "select message_id from treadle.submit_many($1, patient => false)", json.dumps([body]), seen=True
        )
        if "message_id" not in body:
            assert state == "", found
            self.note(Caller("login", tenant), name, agent, body["message"], found[0][0])
        elif message is not None and message.tenant != tenant:
            assert state == "TR409", (tenant, message, found)
        else:
            assert state == "", (tenant, message, found)

    @rule(tenant=TENANTS, thread=NAMES)
    def delete_a_thread_in_sql(self, tenant: str, thread: str) -> None:
        name = self.place(thread)
        there = (tenant, name) in self.threads
        state, answer = self.ask_in_sql(tenant, "select treadle.delete_thread($1, patient => false)", name, seen=there)
        assert state == ("" if there else "TR404"), answer
        if there:
            self.forget(tenant, name)

    @rule(tenant=TENANTS)
    def list_all_in_sql(self, tenant: str) -> None:
        query = "select t.thread_id, t.tenant from treadle.thread_overview t"
        state, found = self.ask_in_sql(tenant, query, seen=True)
        assert state == ""
        assert {row["tenant"] for row in found} <= {tenant}
        listed = {row["thread_id"] for row in found if row["thread_id"][1:] == str(self.example)}
        assert listed == {name for of, name in self.threads if of == tenant}

    @rule(tenant=TENANTS, topic=NAMES, writes=st.booleans(), names_other=st.booleans())
    def use_a_topic_in_sql(self, tenant: str, topic: str, writes: bool, names_other: bool) -> None:
        name, of = self.place(topic), "globex" if names_other == (tenant == "acme") else "acme"
        there = (tenant, name) in self.topics
        query = "select treadle.publish($1, to_jsonb($2::text), tenant => $3)"
        arguments = [name, f"{tenant} {RECORD}", of]
        if not writes:
            query = "select record_id from treadle.read_records($1, 0, 1000, tenant => $2)"
            arguments = [name, of]
        self.on.run(self._sequence())
        state, found = self.ask_in_sql(tenant, query, *arguments, seen=there and of == tenant)
        assert state == ("42501" if of != tenant else "" if there else "TR404"), (tenant, of, found)
        if state == "" and writes:
            self.note_records(tenant, name, [found[0][0]])
        elif state == "":
            assert [row[0] for row in found] == self.topics[tenant, name]

    @rule(tenant=TENANTS, table=TOPIC_TABLES)
    def read_topics_in_sql(self, tenant: str, table: str) -> None:
        state, found = self.ask_in_sql(tenant, f"select distinct tenant from treadle.{table}", seen=True)
        assert state == ""
        assert {row["tenant"] for row in found} <= {tenant}
