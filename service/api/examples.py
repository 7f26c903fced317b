"""Examples of requests and answers in the OpenAPI description, by the model's name."""

from typing import Any

MESSAGE_ID = "01a2009e-78fa-71a1-9dbb-0de0492c06e3"
FAILED_ID = "01a2009f-2623-7067-b6fa-75d59fc54b21"
NOW = "2026-11-22T00:18:35.392203Z"

ACCEPTED = {
    "message_id": MESSAGE_ID,
    "state": "queued",
    "queue_position": 0,
    "created_at": NOW,
    "thread_id": "tour",
}
STATUS = {
    "message_id": FAILED_ID,
    "state": "failed",
    "user_message": "fail me",
    "priority": "normal",
    "created_at": NOW,
    "started_at": NOW,
    "completed_at": NOW,
    "result": None,
    "error": "Failing attempt 2, as metadata.fail_times asks.",
    "queue_position": None,
    "thread_id": None,
    "agent": "echo",
    "attempt": 2,
    "max_attempts": 2,
    "run_at": NOW,
    "worker_id": "vm:19145:0c78602f",
    "metadata": {"fail_times": 9},
    "queue": "default",
    "hold": None,
    "usage": None,
    "aside": False,
    "parent": None,
    "asks": None,
}
QUEUE = {
    "name": "default",
    "paused": False,
    "depth": 1,
    "visible": 1,
    "in_flight": 0,
    "completed": 5,
    "failed": 0,
    "cancelled": 2,
    "oldest_age_seconds": 4.256778,
    "throughput_per_minute": 4,
    "mean_processing_seconds": 0.8876,
    "created_at": NOW,
    "workers": 1,
}

WORKER_ID = "remote:8d5c2f0e-6a60-4a5b-9a53-0c1e6a1f2b11"
UNDER_LEASE = {"message_id": MESSAGE_ID, "lease": "5b0a1c9e-1f3d-4c55-8f0e-2f6f0c9d7a10"}

KEY_ID = "4f2a91c07b3d"
KEY = {
    "key_id": KEY_ID,
    "tenant": "default",
    "name": "ci",
    "scopes": ["submit", "read"],
    "agents": None,
    "created_at": NOW,
    "created_by": "command line (ann)",
    "expires_at": None,
    "revoked_at": None,
    "former_until": None,
    "last_used_at": NOW,
}
CREATED_KEY = {
    "key_id": KEY_ID,
    "key": f"trd_{KEY_ID}_<secret>",
    "tenant": "default",
    "name": "ci",
    "scopes": ["submit", "read"],
    "agents": None,
    "expires_at": None,
    "former_until": None,
}
ACT = {
    "at": NOW,
    "tenant": "acme",
    "principal": f"key {KEY_ID} (ci)",
    "action": "message.cancel",
    "target": MESSAGE_ID,
    "details": {},
}

RECORD = {
    "offset": 0,
    "record_id": MESSAGE_ID,
    "key": "order-1",
    "headers": {},
    "value": {"goal": "a red bicycle"},
    "schema_id": None,
    "created_at": NOW,
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "NewKey": {"name": "ci", "scopes": ["submit", "read"], "expires_in": 7_776_000},
    "Rotation": {"grace_seconds": 3600},
    "NewToken": {"subject": "user-7", "scopes": ["submit", "read"], "expires_in": 3600},
    "Key": KEY,
    "CreatedKey": CREATED_KEY,
    "Revoked": {"key_id": KEY_ID, "revoked_at": NOW},
    "NewTenant": {"tenant": "acme"},
    "CreatedToken": {"token": "trt_<token>", "expires_at": NOW},
    "AuditPage": {"acts": [ACT], "next_cursor": None},
    "NewMessage": {"message": "hello", "thread_id": "tour", "metadata": {"delay_ms": 100}},
    "NewBatch": {"messages": [{"message": "one", "thread_id": "tour"}, {"message": "two", "thread_id": "tour"}]},
    "MessageChanges": {"priority": "high", "delay_seconds": 0},
    "Selection": {"agent": "planner", "error": "rate limit", "preview": True},
    "ThreadChanges": {"metadata": {"customer": "7"}},
    "Changes": {"matched": 3, "changed": 3, "skipped": 0, "next_cursor": None, "searched_until": None},
    "NewInput": {"input": "Yes, go on.", "name": "confirm"},
    "Accepted": ACCEPTED,
    "AcceptedBatch": {"messages": [ACCEPTED]},
    "Answered": {"message_id": MESSAGE_ID, "state": "queued"},
    "Cancelled": {"message": "The message is cancelled.", "message_id": MESSAGE_ID},
    "Redriven": {"message_id": FAILED_ID, "state": "queued"},
    "Status": STATUS,
    "EventPage": {
        "message_id": MESSAGE_ID,
        "events": [{"seq": 2, "type": "started", "data": {"attempt": 1}, "created_at": NOW}],
        "next_after": 2,
        "over": False,
    },
    "Thread": {
        "thread_id": "tour",
        "message_count": 2,
        "created_at": NOW,
        "last_activity": NOW,
        "phase": "refinement_ready",
        "states": {"queued": 0, "processing": 0, "completed": 2, "failed": 0, "cancelled": 0},
        "metadata": {},
        "memory": None,
    },
    "ThreadSummary": {
        "thread_id": "tour",
        "message_count": 2,
        "created_at": NOW,
        "last_activity": NOW,
        "last_message_preview": "two",
    },
    "Usage": {"thread_id": "tour", "messages": 2, "usage": {"input_tokens": 310, "output_tokens": 92}},
    "Queue": QUEUE,
    "NewTopic": {"retention_hours": 168},
    "NewRecords": {"value": {"goal": "a red bicycle"}, "key": "order-1"},
    "DeliveryReport": {"records": [{"record_id": MESSAGE_ID, "created_at": NOW, "known": False}]},
    "RecordPage": {"records": [RECORD], "next_offset": 1, "gap": 0},
    "RecordPlace": {"record_id": MESSAGE_ID, "topic": "plan.in", "offset": 0, "created_at": NOW},
    "NewSubscription": {"topics": "plan.*", "agent": "planner", "from": "earliest"},
    "NewWorker": {"agents": [{"agent": "shout", "queue": "remote"}], "concurrency": 10, "host": "laptop"},
    "RegisteredWorker": {
        "worker_id": WORKER_ID,
        "tenant": "default",
        "queues": ["remote"],
        "heartbeat_seconds": 2.0,
        "silence_seconds": 10.0,
    },
    "NewClaim": {"quantity": 10, "wait": 30},
    "NewEvents": {**UNDER_LEASE, "first_seq": 3, "events": [{"type": "chunk", "data": {"chunk": "HE", "index": 0}}]},
    "AppendedEvents": {"last_seq": 3, "cancel_requested": False},
    "NewEnding": {**UNDER_LEASE, "attempt": 1, "outcome": "completed", "first_seq": 4, "result": "HELLO"},
    "EndedAttempt": {"message_id": MESSAGE_ID, "state": "completed"},
    "NewHeartbeat": {"leases": [UNDER_LEASE]},
    "Verdicts": {"verdicts": [{**UNDER_LEASE, "verdict": "cancelled"}]},
    "NewWebhook": {"url": "https://example.com/hook", "events": ["message.completed", "message.failed"]},
    "WebhookChanges": {"enabled": True},
    "SecretRotation": {"grace_seconds": 86400},
    "NewPosition": {"to": "earliest", "topic": None},
    "Health": {"status": "healthy", "queue_initialized": True, "workers": 1, "reasons": []},
    "Problem": {
        "title": "Unprocessable",
        "status": 422,
        "detail": "There is no agent 'poet'.",
        "type": "about:blank",
    },
}
