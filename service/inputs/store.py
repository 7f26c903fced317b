"""The input types of the registered agents, as the API checks messages against them before it accepts them."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from service.db.pool import Database
from service.inputs.validator import Validator, compile_schema

FRESH_SECONDS = 1.0  # for which the schemas are used without a look at whether they have changed
VERSION = "select count(*), max(registered_at), max(agent) filter (where is_default) from treadle.agent_overview"
SCHEMAS = "select agent, is_default, input::text from treadle.agent_overview where input is not null or is_default"


class InputMisfit(NamedTuple):
    """The number of a message among several, a sentence that says why it does not fit, and where in the message."""

    number: int
    sentence: str
    pointer: str


class InputSchemas:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._version: Any = None
        self._read_at = -FRESH_SECONDS
        self._reading: asyncio.Task[None] | None = None
        self._validators: dict[str, Validator] = {}
        self._default: str | None = None

    async def misfit(
        self, messages: Iterable[tuple[str | None, Any]], *, only_agents: Sequence[str] | None = None
    ) -> InputMisfit | None:
        """The first message that does not fit the input of its agent (None: of the default agent). `only_agents`: the
        sender may address no others, and learns nothing about them."""
        messages = list(messages)
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            await self._read()
        if self._first(messages, only_agents) is None:
            return None
        await self._read()  # the agent may have been registered again meanwhile
        return self._first(messages, only_agents)

    def _first(self, messages: list[tuple[str | None, Any]], only_agents: Sequence[str] | None) -> InputMisfit | None:
        for number, (agent, message) in enumerate(messages):
            name = self._default if agent is None else agent
            if name is None or (only_agents is not None and name not in only_agents):
                continue
            validator = self._validators.get(name)
            if validator is not None and (misfit := validator.misfit(message)) is not None:
                sentence = f"{misfit.place} does not fit the input of the agent {name!r}: {misfit.reason}."
                return InputMisfit(number, sentence, misfit.pointer)
        return None

    async def _read(self) -> None:
        """Read the schemas if they have changed. Requests that arrive at the same time share one look and go on
        together, so that they still make one batch."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_now())
        await asyncio.shield(self._reading)

    async def _read_now(self) -> None:
        now = time.monotonic()
        version = await self._database.fetchrow(VERSION)
        if version != self._version:
            rows = await self._database.fetch(SCHEMAS)
            compiled = {row["agent"]: compile_schema(row["agent"], row["input"]) for row in rows if row["input"]}
            self._validators = {agent: validator for agent, validator in compiled.items() if validator is not None}
            self._default = next((row["agent"] for row in rows if row["is_default"]), None)
            self._version = version
        self._read_at = now
