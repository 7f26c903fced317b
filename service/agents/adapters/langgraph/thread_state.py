"""The state of a graph from message to message of a thread, and its checkpoints while a message waits for a person.

LangGraph keeps both in a checkpointer. Here the state after a message is the result of a step, and the thread's memory
names the message; it is saved in the transaction that completes the message, so one that failed or was rolled back
leaves nothing. Where no later message may begin there, the memory has the state itself. The checkpoints of a message
that asks a person are the result of a step, too. Imported only when a graph runs.
"""

import base64
import contextlib
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from langgraph.checkpoint.memory import InMemorySaver

from service.agents.adapters.langgraph.asked import MEMORY_KEY, SEED
from service.agents.contract import Context, Rejected
from service.limits import OWN_STEP_PREFIX

# In the memory, by the name of the agent: the messages after which the thread goes on (the last one; and the one
# before, for a retry of the last one), or the state itself, as text.
AFTER, BEFORE = "after", "before"

STEPS_OF_THE_INPUT = 2  # until the first nodes run
KEPT_CHECKPOINTS = 2  # of each graph and inner graph: the last one, and the one before, which breakpoints look at

# Steps of a message: the state after it, and its checkpoints before a question.
STATE_STEP, CHECKPOINTS_STEP = f"{OWN_STEP_PREFIX}state", f"{OWN_STEP_PREFIX}checkpoints"


@runtime_checkable
class ReadsSteps(Protocol):
    """A context that reads the results of another message's steps."""

    async def steps_of(self, message_id: str) -> dict[str, Any]: ...


class _NotStored(Exception):
    pass


class ThreadState:
    """Of one attempt. `saver`: where the graph keeps the checkpoints of this message. `is_saver`: it forgets them with
    the attempt, so that they are kept here. `keeps_state`: the next message of the thread goes on with the state.
    `keeps_earlier`: any later message may. `checkpoint`: the message after whose state this one begins (empty: without
    a state); None: after the last one."""

    def __init__(
        self,
        context: Context,
        agent: str,
        saver: Any,
        *,
        keeps_state: bool,
        is_saver: bool,
        keeps_earlier: bool,
        checkpoint: str | None,
    ) -> None:
        self._context = context
        self._agent = agent
        self._saver = saver
        self._keeps_state = keeps_state
        self._is_saver = is_saver
        self._keeps_earlier = keeps_earlier
        self._checkpoint = checkpoint
        self._kept = 0  # times that the checkpoints were kept in this attempt
        self._began_at: int | None = None  # the step of the state with which this attempt began
        self.has_state = False  # from an earlier message of the thread

    async def begin(self) -> None:
        """Give the saver what it must know: the checkpoints of an earlier attempt, or the state before this message."""
        text = await (self._last_state() if self._checkpoint is None else self._earlier_state(self._checkpoint))
        self.has_state = self._keeps_state and isinstance(text, str)
        if self._is_saver and self._context.attempt > 1 and await self._restore():
            return
        config = {"configurable": {"thread_id": self._context.message_id, "checkpoint_ns": ""}}
        # A first attempt may have ended before it gave them to a saver that outlasts it.
        if self.has_state and (self._is_saver or await self._saver.aget_tuple(config) is None):
            checkpoint, metadata = self._load(str(text))
            versions = checkpoint["channel_versions"]
            await self._saver.aput(config, checkpoint, {**metadata, SEED: True}, versions)
            self._began_at = metadata.get("step", 0)

    async def has_only_begun(self) -> bool:
        """Whether this attempt began with the state after another message, and none of its nodes has ended."""
        if self._began_at is None or not self._is_saver:
            return False
        found = await self._saver.aget_tuple({"configurable": {"thread_id": self._context.message_id}})
        return found is not None and found.metadata.get("step", 0) <= self._began_at + STEPS_OF_THE_INPUT

    async def save(self) -> None:
        """The state after this message, for the next one."""
        if not self._keeps_state or self._context.thread_id is None:
            return
        config = {"configurable": {"thread_id": self._context.message_id, "checkpoint_ns": ""}}
        found = await self._saver.aget_tuple(config)
        if found is None:
            return
        metadata = {name: value for name, value in found.metadata.items() if name in ("source", "step", "parents")}
        text = self._dump((found.checkpoint, metadata))
        states = self._context.memory.setdefault(MEMORY_KEY, {})
        if self._keeps_earlier and await self._keep_state(text):
            before = next(self._places(states.get(self._agent)), None)
            states[self._agent] = {AFTER: self._context.message_id} | ({BEFORE: before} if before else {})
            return
        states[self._agent] = text
        if not self._context.memory_fits():
            del states[self._agent]
            self._context.log.warning("a graph's state is dropped: it is larger than a thread's memory may be")

    async def _last_state(self) -> str | None:
        states = self._context.memory.get(MEMORY_KEY)
        kept = states.get(self._agent) if isinstance(states, dict) else None
        if isinstance(kept, str):
            return kept
        for message_id in self._places(kept):
            with contextlib.suppress(Rejected):  # a retry has taken it back
                return await self._earlier_state(message_id)
        return None

    def _places(self, kept: Any) -> Iterator[str]:
        """The messages after whose states the thread may go on, the last one first; not this message itself."""
        for name in (AFTER, BEFORE) if isinstance(kept, dict) else ():
            if isinstance(kept.get(name), str) and kept[name] != self._context.message_id:
                yield kept[name]

    async def _keep_state(self, text: str) -> bool:
        """For a later message that begins here. Each attempt has its own, also after a redrive. False if it cannot be
        read again, or is too large."""
        if not isinstance(self._context, ReadsSteps):
            return False
        place = [self._context.tenant, self._context.thread_id, self._agent]
        try:
            await self._context.step(f"{STATE_STEP} {self._context.attempt}", lambda: [*place, text])
        except Rejected as error:
            self._context.log.warning("the state after this message is not kept: %s", error)
            return False
        return True

    async def _earlier_state(self, message_id: str) -> str | None:
        """After an earlier message of this thread. Raises Rejected."""
        if not message_id:
            return None
        steps = await self._context.steps_of(message_id) if isinstance(self._context, ReadsSteps) else {}
        numbers = [int(name.rpartition(" ")[2]) for name in steps if re.fullmatch(f"{STATE_STEP} [0-9]+", name)]
        found = steps[f"{STATE_STEP} {max(numbers)}"] if numbers else None
        # The id of the message came from a client.
        place = [self._context.tenant, self._context.thread_id, self._agent]
        if not isinstance(found, list) or len(found) != len(place) + 1 or found[:-1] != place:
            raise Rejected(f"The state after the run {message_id!r} is not kept: the run cannot begin there.")
        return str(found[-1])

    async def keep(self) -> None:
        """The checkpoints, before a person is asked."""
        if not self._is_saver:
            return
        self._kept += 1
        await self._context.step(f"{CHECKPOINTS_STEP} {self._context.attempt}.{self._kept}", self._dump_checkpoints)

    async def _dump_checkpoints(self) -> str:
        kept: Counter[str] = Counter()
        found = []
        async for one in self._saver.alist({"configurable": {"thread_id": self._context.message_id}}):
            namespace = one.config["configurable"].get("checkpoint_ns", "")
            kept[namespace] += 1
            if kept[namespace] <= KEPT_CHECKPOINTS:
                parent = one.parent_config["configurable"]["checkpoint_id"] if one.parent_config else None
                found.append((namespace, parent, one.checkpoint, one.metadata, one.pending_writes or []))
        return self._dump(found)

    async def _restore(self) -> bool:
        """Whether an earlier attempt has kept checkpoints."""
        for attempt in range(self._context.attempt - 1, 0, -1):
            text = None
            number = 1
            while (later := await self._stored(f"{CHECKPOINTS_STEP} {attempt}.{number}")) is not None:
                text, number = later, number + 1
            if text is not None:
                await self._put(self._load(text))
                return True
        return False

    async def _stored(self, name: str) -> str | None:
        async def missing() -> str:
            raise _NotStored

        try:
            return str(await self._context.step(name, missing))
        except _NotStored:
            return None

    async def _put(self, found: Any) -> None:
        for namespace, parent, checkpoint, metadata, writes in reversed(found):  # the oldest first
            place = {"thread_id": self._context.message_id, "checkpoint_ns": namespace}
            config = {"configurable": place | ({"checkpoint_id": parent} if parent else {})}
            stored = await self._saver.aput(config, checkpoint, metadata, checkpoint["channel_versions"])
            by_task = defaultdict(list)
            for task, channel, value in writes:
                by_task[task].append((channel, value))
            for task, of_task in by_task.items():
                await self._saver.aput_writes(stored, of_task, task)

    def _dump(self, value: Any) -> str:
        kind, data = self._saver.serde.dumps_typed(value)
        return f"{kind}:{base64.b64encode(zlib.compress(data)).decode()}"

    def _load(self, text: str) -> Any:
        kind, _, data = text.partition(":")
        return self._saver.serde.loads_typed((kind, zlib.decompress(base64.b64decode(data))))


def make_saver() -> Any:
    return InMemorySaver()
