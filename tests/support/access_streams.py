"""Callers that may not meet, on streams and sockets: they open those of each other by id and by foreign cursors, and
send frames with foreign ids."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule
from uuid_utils.compat import uuid7

from tests.support.access import bearer
from tests.support.access_machine import AGENTS, ANY_MESSAGE, ANYONE, NAMES, HttpMachine
from tests.support.access_model import Caller, Message, sees_message
from tests.support.sse_reader import Event, Reader, parse
from tests.support.websocket_client import chat_url, open_socket

LAST_POSITION = """
    select g.last_pos
    from treadle.threads t
    join treadle.thread_log g on g.thread = t.id
    where t.tenant = $1 and t.thread_id = $2
    order by g.era desc
    limit 1"""
BEYOND = 1000  # more than any log of an example has
REFUSED = 1008


class StreamMachine(HttpMachine):
    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.cursors = ["1", str(BEYOND), f"{BEYOND}-abc"]  # and those that streams of any caller had

    # SSE

    @rule(who=ANYONE, which=ANY_MESSAGE, after=st.sampled_from((0, BEYOND)), in_address=st.booleans())
    def stream_a_message(self, who: int, which: int, after: int, in_address: bool) -> None:
        caller, message = self.caller(who), self.some_message(which)
        if message is None:
            return
        seen = sees_message(caller, message)
        path, cursor = "/messages/{}/stream", str(after)
        status, events = self.stream(caller, path.format(message.id), cursor, in_address=in_address, seen=seen)
        if caller.dead or seen:
            assert status in ({401} if caller.dead else {200, 204}), (caller, message, status)
            if status == 200:
                [first] = events
                assert first.type == ("gap" if after else "queued")
                assert after or first.data["message"] == message.secret
            return
        unknown = uuid7()
        refused = self.stream(caller, path.format(unknown), cursor, in_address=in_address, seen=False)
        assert (status, str(events).replace(str(message.id), "ID")) == (
            404,
            str(refused[1]).replace(str(unknown), "ID"),
        )

    @rule(who=ANYONE, thread=NAMES, which=ANY_MESSAGE, in_address=st.booleans())
    def stream_a_thread(self, who: int, thread: str, which: int, in_address: bool) -> None:
        caller, name = self.caller(who), self.place(thread)
        cursor = self.cursors[which % len(self.cursors)]
        seen = self.seen_thread(caller, name) is not None
        status, found = self.stream(caller, f"/threads/{name}/stream", cursor, in_address=in_address, seen=seen)
        if caller.dead or not seen:
            assert status == (401 if caller.dead else 404)
            assert caller.dead or found["detail"] == f"There is no thread '{name}'."
            return
        assert status == 200
        own = {
            str(message.id) for message in self.messages if (message.tenant, message.thread) == (caller.tenant, name)
        }
        assert {event.data["message_id"] for event in found if event.type != "gap"} <= own
        self.cursors += [event.last_event_id for event in found if event.id]

    def stream(self, caller: Caller, path: str, cursor: str, *, in_address: bool, seen: bool) -> tuple[int, Any]:
        """The status, and the first event of a message, all that a thread has so far, or the problem."""
        self.count("SSE", caller, seen)
        last = self.on.run(self.on.sql.fetchval(LAST_POSITION, caller.tenant, path.split("/")[2])) or 0
        found: tuple[int, Any] = self.on.run(self._stream(caller, path, cursor, in_address, last))
        return found

    async def _stream(self, caller: Caller, path: str, cursor: str, in_address: bool, last: int) -> tuple[int, Any]:
        headers = {"Last-Event-ID": cursor} | ({} if in_address else bearer(caller.credential))
        query = {"token": caller.credential} if in_address else {}
        async with self.on.api.stream("GET", path, headers=headers, params=query) as answer:
            if answer.status_code != 200:
                text = await answer.aread()
                return answer.status_code, answer.json() if text else []
            if path.startswith("/messages"):
                return 200, [await Reader(answer).event()]
            return 200, await _so_far(answer, int(cursor.partition("-")[0]), last)

    # WebSocket

    @rule(
        who=ANYONE,
        thread=NAMES,
        which=ANY_MESSAGE,
        frame=st.sampled_from(("cancel", "input", "user_input", "auth")),
        agent=st.sampled_from(AGENTS),
        after=st.sampled_from((None, 1, BEYOND)),
        log=st.sampled_from((None, 1)),
    )
    def chat(
        self, who: int, thread: str, which: int, frame: str, agent: str, after: int | None, log: int | None
    ) -> None:
        """Open the socket of a thread, and send a frame about any message, or with the key of another caller."""
        caller, name, message = self.caller(who), self.place(thread), self.some_message(which)
        if message is None:
            return
        other = self.caller(which)
        fields: dict[str, Any] = {"message_id": str(message.id)}
        if frame == "user_input":
            fields = {"text": self.secret(caller.tenant), "agent": agent, "key": "k", "aside": False}
        elif frame == "auth":
            fields = {"token": other.credential}
        elif frame == "input":
            fields["input"] = "x"
        seen = (
            sees_message(caller, message)
            if frame in {"cancel", "input"}
            else self.seen_thread(caller, name) is not None
        )
        self.count("WebSocket", caller, seen)
        url = chat_url(self.on.api, name, after=after, log=log)
        frames, code = self.on.run(self._chat(caller, url, frame, fields))
        if caller.dead:
            assert ([one["type"] for one in frames], code) == (["error"], REFUSED)
            return
        self.check_log(caller, name, frames)
        self.check_answer(caller, name, frame, message, agent, other, frames)

    async def _chat(self, caller: Caller, url: str, type: str, fields: Any) -> tuple[list[dict[str, Any]], int | None]:
        """All frames up to the answer, and the close code where the server closed."""
        async with open_socket(url) as chat:
            await chat.send("auth", token=caller.credential)
            frames = [await chat.frame()]
            if frames[0]["type"] == "error":
                return frames, (await chat.rest())[1]
            await chat.send(type, **fields)
            await chat.send("ping")
            while frames[-1]["type"] != "pong":
                frames.append(await chat.frame())
            return frames, None

    def check_log(self, caller: Caller, name: str, frames: list[dict[str, Any]]) -> None:
        """What the socket shows of the thread belongs to it, and to the caller."""
        shown = {frame["message_id"] for frame in frames if "event" in frame}
        made = {frame["message_id"] for frame in frames if frame.get("status") == "accepted"}
        thread = self.seen_thread(caller, name)
        own = {str(one.id) for one in self.messages if (one.tenant, one.thread) == (caller.tenant, name)}
        assert shown <= made | (own if thread is not None else set()), (caller, name)
        [opened] = [frame for frame in frames[:1] if frame.get("status") == "open"]
        assert (opened.get("log") is None) == (thread is None), (caller, name)

    def check_answer(
        self,
        caller: Caller,
        name: str,
        frame: str,
        message: Message,
        agent: str,
        other: Caller,
        frames: list[dict[str, Any]],
    ) -> None:
        errors = [one["detail"] for one in frames if one["type"] == "error"]
        if frame == "auth":
            same = not other.dead and (other.tenant, other.restrictions) == (caller.tenant, caller.restrictions)
            assert (not errors) == same, (caller, other, errors)
        elif "submit" not in caller.scopes:
            assert errors == ["The key or token lacks the scope submit."]
        elif frame == "user_input":
            self.check_input(caller, name, agent, errors, frames)
        elif sees_message(caller, message):
            assert not any(error.startswith("There is no message") for error in errors)
            message.may_be_cancelled |= frame == "cancel"
        else:
            assert errors == [f"There is no message {message.id}."], (caller, message)

    def check_input(
        self, caller: Caller, name: str, agent: str, errors: list[str], frames: list[dict[str, Any]]
    ) -> None:
        used = "chat", caller.tenant, caller.restrictions, name
        accepted = [one["message_id"] for one in frames if one.get("status") == "accepted"]
        if used in self.keys:
            first, ids = self.keys[used]
            if not self.causes(caller, name, agent):
                assert accepted == (ids if first == agent else []), (caller, name)
            assert not accepted or accepted == ids
        elif self.causes(caller, name, agent):
            assert (accepted, len(errors)) == ([], 1), (caller, name, agent)
        else:
            assert len(accepted) == 1, (caller, name, errors)
            self.note(caller, name, agent, self.secret(caller.tenant), UUID(accepted[0]))
            self.keys[used] = agent, accepted


async def _so_far(answer: Any, after: int, last: int) -> list[Event]:
    """What the stream of a thread has after a cursor: up to the event `last`. The first part says whether the log lacks
    the event of the cursor, so that the whole log follows."""
    parts = answer.aiter_raw()
    buffer = await anext(parts)
    follows = after < last or b"event: gap" in buffer
    found: list[Event] = []
    while True:
        *whole, buffer = buffer.split(b"\n\n")
        found += [event for event in map(parse, whole) if isinstance(event, Event)]
        if not follows or (found and found[-1].id == last):
            return found
        buffer += await anext(parts)
