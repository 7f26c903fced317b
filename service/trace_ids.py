"""Ids of traces and spans. Those of a message and its attempts are derived from it, so that every process makes the
same ones."""

import hashlib
from uuid import UUID


def trace_of(traceparent: str) -> int:
    """The id of the trace that a W3C trace context names."""
    return int(traceparent[3:35], 16)


def own_trace(message_id: UUID) -> int:
    """The trace of a message that was submitted without one."""
    return _digest(message_id.bytes, 16)


def span_of(message_id: UUID, attempt: int) -> int:
    """The span of an attempt; that of the wait in the queue is of the attempt 0."""
    return _digest(message_id.bytes + b"%d" % attempt, 8)


def _digest(text: bytes, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:size], "big")
