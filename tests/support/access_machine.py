"""A state machine of callers that may not meet: two tenants, and in each of them a key, two subjects and a key of one
agent. They use the same thread names and Idempotency-Keys, and the ids of each other, over HTTP and in SQL.

The model knows who sees which message and thread. A call for a thing that is not seen must be answered as for an
unknown name.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from uuid_utils.compat import uuid7

from service.db.pool import Connection
from tests.support.access import bearer
from tests.support.api_client import Client
from tests.support.invariants import violations

AGENTS = ("echo", "other")
THREADS = ("t", "u", None)


class Caller(msgspec.Struct, frozen=True):
    """A principal with its credential. `agents`: the only ones of a key."""

    name: str
    tenant: str
    credential: str
    subject: str | None = None
    agents: tuple[str, ...] | None = None

    @property
    def reach(self) -> str | None:
        given = {"owner": self.subject, "agents": self.agents}
        restrictions = {name: value for name, value in given.items() if value is not None}
        return json.dumps(restrictions) if restrictions else None


class Thread(msgspec.Struct):
    tenant: str
    owner: str | None
    agents: set[str]


class Message(msgspec.Struct):
    id: UUID
    tenant: str
    owner: str | None
    agent: str
    secret: str


def sees_message(caller: Caller, message: Message) -> bool:
    return (
        caller.tenant == message.tenant
        and caller.subject in {None, message.owner}
        and (caller.agents is None or message.agent in caller.agents)
    )


def sees_thread(caller: Caller, thread: Thread) -> bool:
    return (
        caller.tenant == thread.tenant
        and caller.subject in {None, thread.owner}
        and (caller.agents is None or thread.agents <= set(caller.agents))
    )


class World(msgspec.Struct):
    """The API and the database, in the loop of the test; the machine runs in a thread of its own."""

    api: Client
    sql: Connection
    callers: list[Caller]
    loop: asyncio.AbstractEventLoop
    examples: Any = msgspec.field(default_factory=itertools.count)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)


class AccessMachine(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.on = world
        self.example = next(world.examples)
        self.threads: dict[tuple[str, str], Thread] = {}  # by tenant and name
        self.messages: list[Message] = []
        self.keys: dict[tuple[str, str | None, str], tuple[Any, Message]] = {}

    def place(self, thread: str | None) -> str | None:
        """A name of this example's own."""
        return None if thread is None else f"{thread}{self.example}"

    def ask(self, caller: Caller, method: str, path: str, **more: Any) -> tuple[int, Any]:
        answer = self.on.run(
            self.on.api.request(method, path, headers=bearer(caller.credential) | more.pop("headers", {}), **more)
        )
        return answer.status_code, answer.json() if answer.content else None

    @rule(
        who=st.integers(0, 7),
        thread=st.sampled_from(THREADS),
        agent=st.sampled_from(AGENTS),
        key=st.sampled_from((None, None, "k")),
        in_sql=st.booleans(),
    )
    def submit(self, who: int, thread: str | None, agent: str, key: str | None, in_sql: bool) -> None:
        caller, name = self.on.callers[who], self.place(thread)
        body = {"message": f"of {caller.name}", "agent": agent} | ({"thread_id": name} if name else {})
        place = (caller.tenant, caller.reach, f"{key}{self.example}")
        answer = self.submit_in_sql(caller, body) if in_sql else self.submit_over_http(caller, body, key and place[2])
        if not in_sql and key and place in self.keys:
            first, message = self.keys[place]
            assert answer == ((202, message.id) if first == body else (422, None)), (caller.name, body)
            return
        found = None if name is None else self.threads.get((caller.tenant, name))
        if caller.agents is not None and agent not in caller.agents:
            assert answer[0] == 422
        elif found is not None and not sees_thread(caller, found):
            assert answer[0] == 404
        else:
            assert answer[0] == 202, (caller.name, body, answer)
            assert answer[1] is not None
            self.note(caller, name, agent, body["message"], answer[1])
            if not in_sql and key:
                self.keys[place] = body, self.messages[-1]

    def note(self, caller: Caller, name: str | None, agent: str, secret: str, id: UUID) -> None:
        owner = caller.subject
        if name is not None:
            thread = self.threads.setdefault((caller.tenant, name), Thread(caller.tenant, caller.subject, set()))
            thread.agents.add(agent)
            owner = thread.owner
        self.messages.append(Message(id, caller.tenant, owner, agent, secret))

    def submit_over_http(self, caller: Caller, body: Any, key: str | None) -> tuple[int, UUID | None]:
        status, answer = self.ask(
            caller, "POST", "/messages", json=body, headers={"Idempotency-Key": key} if key else {}
        )
        return status, UUID(answer["message_id"]) if status == 202 else None

    def submit_in_sql(self, caller: Caller, body: Any) -> tuple[int, UUID | None]:
        call = "select * from treadle.submit_many($1, tenant => $2, reach => $3, strict => false)"
        [row] = self.on.run(self.on.sql.fetch(call, json.dumps([body]), caller.tenant, caller.reach))
        code = row["refusal_code"]
        return (202, row["message_id"]) if code is None else (int(code.removeprefix("TR")), None)

    @rule(
        who=st.integers(0, 7),
        which=st.integers(0),
        call=st.sampled_from(("status", "events", "events?after=1", "cancel", "redrive", "input")),
    )
    def use_a_message(self, who: int, which: int, call: str) -> None:
        if not self.messages:
            return
        caller, message = self.on.callers[who], self.messages[which % len(self.messages)]
        status, answer = self.call_message(caller, call, message.id)
        if sees_message(caller, message):
            assert status != 404, (caller.name, call, message)
            if call == "status":
                assert answer["user_message"] == message.secret
        else:
            unknown = uuid7()
            refused = self.call_message(caller, call, unknown)
            assert (status, str(answer).replace(str(message.id), "ID")) == (
                refused[0],
                str(refused[1]).replace(str(unknown), "ID"),
            )
            assert status == 404

    def call_message(self, caller: Caller, call: str, id: UUID) -> tuple[int, Any]:
        match call:
            case "cancel":
                return self.ask(caller, "DELETE", f"/messages/{id}")
            case "redrive":
                return self.ask(caller, "POST", f"/messages/{id}/redrive")
            case "input":
                return self.ask(caller, "POST", f"/messages/{id}/input", json={"input": "x"})
            case _:
                return self.ask(caller, "GET", f"/messages/{id}/{call}")

    @rule(who=st.integers(0, 7), thread=st.sampled_from(("t", "u")), call=st.sampled_from(("", "/messages", "/usage")))
    def use_a_thread(self, who: int, thread: str, call: str) -> None:
        caller, name = self.on.callers[who], self.place(thread)
        assert name is not None
        found = self.threads.get((caller.tenant, name))
        status, answer = self.ask(caller, "GET", f"/threads/{name}{call}")
        assert status == (200 if found is not None and sees_thread(caller, found) else 404), (caller.name, call)
        if status == 404:
            assert answer["detail"] == f"There is no thread '{name}'."
        elif call == "/messages":
            assert {message["thread_id"] for message in answer["messages"]} <= {name}

    @rule(who=st.integers(0, 7), thread=st.sampled_from(("t", "u")))
    def delete_a_thread(self, who: int, thread: str) -> None:
        caller, name = self.on.callers[who], self.place(thread)
        assert name is not None
        found = self.threads.get((caller.tenant, name))
        status, _ = self.ask(caller, "DELETE", f"/threads/{name}")
        if found is None or not sees_thread(caller, found):
            assert status == 404
            return
        assert status == 204
        del self.threads[caller.tenant, name]
        left = self.on.run(self.on.sql.fetch("select message_id from treadle.messages"))
        kept = {row["message_id"] for row in left}
        self.messages = [message for message in self.messages if message.id in kept]

    @rule(who=st.integers(0, 7))
    def list_threads(self, who: int) -> None:
        caller = self.on.callers[who]
        status, answer = self.ask(caller, "GET", "/threads?limit=1000")
        assert status == 200
        listed = {item["thread_id"] for item in answer if item["thread_id"].endswith(str(self.example))}
        own = {name for (_, name), thread in self.threads.items() if sees_thread(caller, thread)}
        assert own <= listed
        assert {name for name in listed if name[1:] == str(self.example)} == own

    @rule(outcome=st.sampled_from(("completed", "rejected")))
    def work(self, outcome: str) -> None:
        """A worker of all tenants claims a message and ends it."""
        self.on.run(self._work(outcome))

    async def _work(self, outcome: str) -> None:
        for row in await self.on.sql.fetch("select * from treadle.claim('w', '{default}', 1, 60)"):
            await self.on.sql.execute(
                "select treadle.finish(array[$1::uuid], array[$2::uuid], array[$3], array['\"x\"'], array['broke'],"
                " null, null, null, array[$4::integer], '{}', '{}', '{}', true, 3)",
                row["message_id"],
                row["lease"],
                outcome,
                row["last_seq"] + 1,
            )

    def teardown(self) -> None:
        assert self.on.run(violations(self.on.sql)) == {}
