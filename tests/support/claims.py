"""A claim of a message, for what needs no PostgreSQL."""

from datetime import datetime

import msgspec

from service.leases.model import Claim

CLAIM = msgspec.convert(
    {
        **dict.fromkeys(("thread", "thread_id", "ord")),
        **{"message_id": "0192f0c1-2222-7000-8000-000000000000", "lease": "0192f0c1-2222-7000-8000-000000000001"},
        **{"queue": "q", "agent": "a", "priority": "normal", "body": '"x"', "metadata": "{}", "attempt": 1},
        **{"max_attempts": 3, "failures": 0, "losses": 0, "timeout_seconds": 1, "last_seq": 1},
        "created_at": datetime(2026, 1, 1),
    },
    Claim,
)
