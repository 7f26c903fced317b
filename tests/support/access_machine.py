"""A state machine of callers that may not meet: in each of two tenants keys, subjects, tokens of a thread and of a
message, credentials that have ended, and a login role of PostgreSQL. They use the same thread names and
Idempotency-Keys, and the ids and cursors of each other.

The model (access_model.py) knows who sees which message and thread. A call for a thing that is not seen must be
answered as for an unknown name. This file has the calls over HTTP; access_streams.py has streams and sockets,
access_sql.py the sessions in SQL.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from uuid_utils.compat import uuid7

from service.db.pool import Connection
from tests.support.access import bearer
from tests.support.access_model import Caller, Message, Thread, sees_message, sees_thread
from tests.support.api_client import Client

AGENTS = ("echo", "other")
NAMES = st.sampled_from(("t", "u"))
ANYONE = ANY_MESSAGE = st.sampled_from(range(64))  # which caller, which message: modulo their number
CALLS_OF_A_MESSAGE = {
    "status": ("GET", "/messages/{}/status", "read"),
    "explain": ("GET", "/messages/{}/explain", "read"),
    "events": ("GET", "/messages/{}/events", "read"),
    "events after 1": ("GET", "/messages/{}/events?after=1", "read"),
    "cancel": ("DELETE", "/messages/{}", "submit"),
    "redrive": ("POST", "/messages/{}/redrive", "operate"),
    "input": ("POST", "/messages/{}/input", "submit"),
}
DEAD, SEEN, UNSEEN = "ended credential", "seen", "not seen"


class World(msgspec.Struct):
    """The API and the database, in the loop of the test; the machine runs in a thread of its own. `sessions`: of the
    tenants' login roles. `calls`: how many there were, by protocol and by what was asked for."""

    api: Client
    sql: Connection
    sessions: dict[str, Connection]
    callers: list[Caller]
    loop: asyncio.AbstractEventLoop
    examples: Any = msgspec.field(default_factory=itertools.count)
    calls: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)


class HttpMachine(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.on = world
        self.example = next(world.examples)
        self.callers = list(world.callers)  # and the tokens of this example
        self.threads: dict[tuple[str, str], Thread] = {}  # by tenant and name
        self.messages: list[Message] = []
        self.keys: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def caller(self, who: int) -> Caller:
        return self.callers[who % len(self.callers)]

    def place(self, thread: str) -> str:
        """A name of this example's own."""
        return f"{thread}{self.example}"

    def secret(self, tenant: str) -> str:
        """The text of the messages that a tenant submits in this example."""
        return f"{tenant} example {self.example}."

    def some_message(self, which: int) -> Message | None:
        return self.messages[which % len(self.messages)] if self.messages else None

    def seen_thread(self, caller: Caller, name: str) -> Thread | None:
        found = self.threads.get((caller.tenant, name))
        return found if found is not None and sees_thread(caller, name, found) else None

    def seen_ids(self, caller: Caller) -> set[str]:
        return {str(message.id) for message in self.messages if sees_message(caller, message)}

    def count(self, protocol: str, caller: Caller, seen: bool) -> None:
        self.on.calls[protocol, DEAD if caller.dead else SEEN if seen else UNSEEN] += 1

    def ask(self, caller: Caller, method: str, path: str, *, seen: bool, **more: Any) -> tuple[int, Any]:
        """`seen`: whether the call is for something that the caller sees."""
        self.count("HTTP", caller, seen)
        headers = bearer(caller.credential) | more.pop("headers", {})
        answer = self.on.run(self.on.api.request(method, path, headers=headers, **more))
        return answer.status_code, answer.json() if answer.content else None

    # Submits

    @initialize(turn=st.integers(0, 2))
    def begin(self, turn: int) -> None:
        """Each caller that may submits a message, to a thread or to none."""
        for number, caller in enumerate(self.on.callers):
            if not caller.dead and "submit" in caller.scopes:
                self.submit_one(number, ("t", "u", None)[(number + turn) % 3], "echo", None, "one")

    @rule(
        who=ANYONE,
        thread=st.sampled_from(("t", "u", None)),
        agent=st.sampled_from(AGENTS),
        key=st.sampled_from((None, None, "k")),
        way=st.sampled_from(("one", "batch", "reach")),
    )
    def submit(self, who: int, thread: str | None, agent: str, key: str | None, way: str) -> None:
        """Alone, in a batch, or in SQL with the caller's reach."""
        self.submit_one(who, thread, agent, key, way)

    def submit_one(self, who: int, thread: str | None, agent: str, key: str | None, way: str) -> None:
        caller, name = self.caller(who), self.place(thread) if thread else None
        body = {"message": self.secret(caller.tenant), "agent": agent} | ({"thread_id": name} if name else {})
        causes = self.causes(caller, name, agent)
        used = (caller.tenant, caller.restrictions, f"{key}{self.example}") if key and way != "reach" else None
        status, ids = self.send(caller, way, body, used, seen=not causes)
        if used in self.keys and not causes & {401, 403}:
            first, first_ids = self.keys[used]
            assert (status, ids) == ((202, first_ids) if first == (way, body) else (422, [])), (caller, body)
        elif causes:
            assert status in causes, (caller, body, status)
        else:
            assert status == 202, (caller, body, status)
            for id in ids:
                self.note(caller, name, agent, body["message"], id)
            if used:
                self.keys[used] = (way, body), ids

    def causes(self, caller: Caller, name: str | None, agent: str) -> set[int]:
        """The statuses with which a submit may be refused; none: it must be accepted."""
        if caller.dead:
            return {401}
        found = set() if "submit" in caller.scopes else {403}
        if caller.message is not None or (caller.thread is not None and caller.thread != name):
            found.add(403)
        if caller.agents is not None and agent not in caller.agents:
            found.add(422)
        if name is not None and (caller.tenant, name) in self.threads and self.seen_thread(caller, name) is None:
            found.add(404)
        return found

    def send(
        self, caller: Caller, way: str, body: Any, used: tuple[Any, ...] | None, *, seen: bool
    ) -> tuple[int, list[UUID]]:
        if way == "reach" and not caller.dead and "submit" in caller.scopes:
            return self.submit_with_reach(caller, body, seen=seen)
        headers = {"Idempotency-Key": used[-1]} if used else {}
        path, sent = ("/messages/batch", {"messages": [body, body]}) if way == "batch" else ("/messages", body)
        status, answer = self.ask(caller, "POST", path, json=sent, headers=headers, seen=seen)
        if status != 202:
            return status, []
        return status, [UUID(one["message_id"]) for one in answer.get("messages", [answer])]

    def submit_with_reach(self, caller: Caller, body: Any, *, seen: bool) -> tuple[int, list[UUID]]:
        """As a service that acts for all tenants, with the restrictions of the caller."""
        self.count("SQL", caller, seen)
        call = "select * from treadle.submit_many($1, tenant => $2, reach => $3, strict => false)"
        reach = None if caller.reach is None else json.dumps(caller.reach)
        [row] = self.on.run(self.on.sql.fetch(call, json.dumps([body]), caller.tenant, reach))
        code = row["refusal_code"]
        return (202, [row["message_id"]]) if code is None else (int(code.removeprefix("TR")), [])

    def note(self, caller: Caller, name: str | None, agent: str, secret: str, id: UUID) -> None:
        owner = caller.subject
        if name is not None:
            thread = self.threads.setdefault((caller.tenant, name), Thread(caller.tenant, caller.subject, set()))
            thread.agents.add(agent)
            owner = thread.owner
        self.messages.append(Message(id, caller.tenant, owner, agent, name, secret))

    # Messages

    @rule(who=ANYONE, which=ANY_MESSAGE, call=st.sampled_from(sorted(CALLS_OF_A_MESSAGE)))
    def use_a_message(self, who: int, which: int, call: str) -> None:
        caller, message = self.caller(who), self.some_message(which)
        if message is None:
            return
        method, path, scope = CALLS_OF_A_MESSAGE[call]
        body = {"json": {"input": "x"}} if call == "input" else {}
        seen = sees_message(caller, message)
        status, answer = self.ask(caller, method, path.format(message.id), seen=seen, **body)
        if caller.dead or scope not in caller.scopes:
            assert status == (401 if caller.dead else 403), (caller, call)
        elif seen:
            assert status != 404, (caller, call, message)
            message.may_be_cancelled |= call == "cancel"
            if call == "status":
                assert answer["user_message"] == message.secret
        else:
            assert (status, answer["detail"]) == (404, f"There is no message {message.id}."), (caller, call, message)
            unknown = uuid7()
            refused = self.ask(caller, method, path.format(unknown), seen=False, **body)
            assert refused[0] == status
            assert refused[1] == answer | {"detail": f"There is no message {unknown}."}

    # Threads

    @rule(who=ANYONE, thread=NAMES, call=st.sampled_from(("", "/messages", "/usage", "/messages?cursor=1")))
    def use_a_thread(self, who: int, thread: str, call: str) -> None:
        caller, name = self.caller(who), self.place(thread)
        found = self.seen_thread(caller, name)
        status, answer = self.ask(caller, "GET", f"/threads/{name}{call}", seen=found is not None)
        assert status == (401 if caller.dead else 404 if found is None else 200), (caller, call)
        if status == 404:
            assert answer["detail"] == f"There is no thread '{name}'."
        elif status == 200 and call.startswith("/messages"):
            assert {message["message_id"] for message in answer["messages"]} <= self.seen_ids(caller)

    @rule(who=ANYONE, thread=NAMES)
    def delete_a_thread(self, who: int, thread: str) -> None:
        caller, name = self.caller(who), self.place(thread)
        found = self.seen_thread(caller, name)
        status, _ = self.ask(caller, "DELETE", f"/threads/{name}", seen=found is not None)
        if caller.dead or "operate" not in caller.scopes:
            assert status == (401 if caller.dead else 403)
        elif found is None:
            assert status == 404
        else:
            assert status == 204
            self.forget(caller.tenant, name)

    def forget(self, tenant: str, name: str) -> None:
        del self.threads[tenant, name]
        self.messages = [one for one in self.messages if (one.tenant, one.thread) != (tenant, name)]

    # Lists

    @rule(
        who=ANYONE, path=st.sampled_from(("/threads?limit=1000", "/queue", "/queues/default/dead-letters?limit=1000"))
    )
    def list_all(self, who: int, path: str) -> None:
        caller = self.caller(who)
        status, answer = self.ask(caller, "GET", path, seen=True)
        if path.startswith("/threads"):
            assert status == (401 if caller.dead else 200)
            listed = {item["thread_id"] for item in answer} if status == 200 else set()
            own = {name for (_, name) in self.threads if self.seen_thread(caller, name)}
            assert caller.dead or {name for name in listed if name[1:] == str(self.example)} == own, caller
            return
        refused = "operate" not in caller.scopes or (path == "/queue" and caller.reach is not None)
        assert status == (401 if caller.dead else 403 if refused else 200), (caller, path)
        if status == 200:
            listed = answer["queued_messages"] if path == "/queue" else answer["dead_letters"]
            assert {one["user_message"].split()[0] for one in listed} <= {caller.tenant}, (caller, listed)

    # Tokens

    @rule(who=ANYONE, thread=NAMES, which=ANY_MESSAGE, kind=st.sampled_from(("thread", "message")))
    def make_a_token(self, who: int, thread: str, which: int, kind: str) -> None:
        """Of a thread or message that may be another's: the token must show no more than its maker sees."""
        maker, message, name = self.caller(who), self.some_message(which), self.place(thread)
        if message is None or len(self.callers) > len(self.on.callers) + 8:
            return
        target = {"thread_id": name} if kind == "thread" else {"message_id": str(message.id)}
        status, answer = self.ask(
            maker, "POST", "/tokens", json={"scopes": maker.scopes, "expires_in": 600, **target}, seen=True
        )
        own = maker.thread if kind == "thread" else maker.message
        wanted = name if kind == "thread" else message.id
        assert status == (401 if maker.dead else 403 if own not in (None, wanted) else 201), (maker, target)
        if status == 201:
            self.callers.append(self.token_of(maker, kind, wanted, answer["token"]))

    def token_of(self, maker: Caller, kind: str, wanted: Any, credential: str) -> Caller:
        fields: dict[str, Any] = {kind: wanted, "credential": credential, "name": f"token of {maker.name}"}
        if kind == "thread" and maker.thread is None and maker.subject is None:
            found = self.seen_thread(maker, wanted)
            owner = None if found is None else found.owner
            fields |= {"subject": owner, "unowned": owner is None}
        return msgspec.structs.replace(maker, **fields)

    # Work

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
        """Nothing was written, deleted or cancelled but by those who may."""
        query = "select message_id, tenant, owner, state from treadle.messages where body #>> '{}' like $1"
        rows: Sequence[Any] = self.on.run(self.on.sql.fetch(query, self.secret("%")))
        there = {row["message_id"]: (row["tenant"], row["owner"]) for row in rows}
        assert there == {message.id: (message.tenant, message.owner) for message in self.messages}
        cancelled = {row["message_id"] for row in rows if row["state"] == "cancelled"}
        assert cancelled <= {message.id for message in self.messages if message.may_be_cancelled}
