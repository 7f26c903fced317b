"""How long the tools take that models call: from the `tool` event of a call to that of its result (treadle's adapters
write both, see service/agents/tool_events.py)."""

import time
from typing import Any

from service import telemetry
from service.telemetry import Work

MAX_OPEN_CALLS = 1_000  # of one attempt; the times of others are not known


class ToolCalls:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._began: dict[str, float] = {}  # by the id of the call

    def note(self, data: Any) -> None:
        """The data of a `tool` event."""
        if not isinstance(data, dict) or not isinstance(call := data.get("id"), str):
            return
        if "output" not in data:
            if len(self._began) < MAX_OPEN_CALLS:
                self._began.setdefault(call, time.monotonic())
        elif (began := self._began.pop(call, None)) is not None:
            name, failed = str(data.get("name", "")), data.get("failed") is True
            telemetry.tool(work=self._work, name=name, call=call, failed=failed, seconds=time.monotonic() - began)
