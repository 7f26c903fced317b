"""Limits and rules that several modules, the SQL functions or the pages share, each written once.

A limit that only one module uses stays in that module. The limits that each agent sets for itself are in
service/agents/limits.py. tests/sql/test_limits.py compares the SQL functions with this module,
tests/websocket/test_page_files.py the scripts of the chat page. The texts end sentences such as
"thread_id must be ...".
"""

import re
from typing import Annotated

from msgspec import Meta

# What a message may ask for
MAX_DELAY_SECONDS = 366 * 86_400
MAX_TIMEOUT_SECONDS = 7 * 86_400  # of one attempt
MAX_ATTEMPTS = 1_000
MAX_WAIT_SECONDS = 60  # of a submit, or of a look at a message, for its end
MAX_BATCH_MESSAGES = 1_000  # in one POST /messages/batch, and sent by one attempt
MAX_SEND_DEPTH = 32  # messages above one: each sent the next, or published the record that became it
CHAIN_ENDS = f"A chain of messages that send messages or publish records ends after {MAX_SEND_DEPTH}."

MAX_BEGUN_MEMORY_BYTES = 1_000_000  # of a thread that is created with a memory
MAX_NESTING_LEVELS = 100  # of arrays and objects in JSON: every later reader of the value recurses as deep

DELAY_RULE = f"a number from 0 to {MAX_DELAY_SECONDS} (366 days)"
TIMEOUT_RULE = f"a number above 0, at most {MAX_TIMEOUT_SECONDS} (7 days)"
WAIT_RULE = f"a number of seconds from 0 to {MAX_WAIT_SECONDS}"
ATTEMPTS_RULE = f"a whole number from 1 to {MAX_ATTEMPTS}"

MAX_URL_CHARS = 2_000  # of webhooks and callbacks
MAX_ERROR_CHARS = 2_000  # of the sentence with which an attempt fails

# Names
MAX_THREAD_ID_CHARS = 255
MAX_AGENT_NAME_CHARS = 100
MAX_QUEUE_NAME_CHARS = 40
WEBHOOK_QUEUE = "webhooks"  # of deliveries, and of nothing else
# Names in the metadata of a message that Treadle and its agents read.
OWN_METADATA = frozenset(
    {
        *("a2a", "agui", "langgraph", "langgraph_deleted", "openai", "openai_deleted", "record"),
        *("history", "max_tokens", "system", "tools"),
    }
)
WEBHOOK_AGENT = "webhook"  # makes the deliveries
MAX_STEP_NAME_CHARS = 200  # also of a message that an agent sends, and of a question
# How the names of steps begin whose results adapters load as objects of Python: remote workers may not write them.
OWN_STEP_PREFIX = "treadle/"
MAX_EVENT_TYPE_CHARS = 100  # of an event that an agent writes
MAX_KEY_CHARS = 255  # of an Idempotency-Key, and of the key of a chat's input

# `$` alone also matches before a final line feed, and neither JSON Schema nor JavaScript knows `\Z`.
# A client takes the segments `.` and `..` out of a path, percent-encoded or not.
THREAD_ID_PATTERN = r"^(?!\.{1,2}$(?![\s\S]))[^/\x00-\x1f\x7f-\x9f]*$(?![\s\S])"
ThreadId = Annotated[str, Meta(min_length=1, max_length=MAX_THREAD_ID_CHARS, pattern=THREAD_ID_PATTERN)]
THREAD_ID_RULE = (
    f"a text of 1 to {MAX_THREAD_ID_CHARS} characters, none of them a control character or a slash, and neither"
    ' "." nor ".."'
)
# An agent's name stands in paths as well (DELETE /instances/{agent}/{thread_id}).
AGENT_NAME_RULE = THREAD_ID_RULE.replace(str(MAX_THREAD_ID_CHARS), str(MAX_AGENT_NAME_CHARS))
REMOTE_QUEUE = "remote"  # where the messages of remote agents wait; the workers of the installation claim from others
QUEUE_NAME_PATTERN = rf"^[a-z][a-z0-9_]{{0,{MAX_QUEUE_NAME_CHARS - 1}}}$(?![\s\S])"
TENANT_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,39}$(?![\s\S])"
TenantName = Annotated[str, Meta(pattern=TENANT_NAME_PATTERN)]
TENANT_NAME_RULE = "1 to 40 of a-z, 0-9, _ and -, beginning with a letter or a digit"
# The id of a JSON-RPC request, and what names its progress: each event of the answer repeats it.
MAX_REQUEST_ID_CHARS = 255
REQUEST_ID_RULE = f"a number or a text, of at most {MAX_REQUEST_ID_CHARS} characters"
KEY_RULE = f"a text of 1 to {MAX_KEY_CHARS} characters"

# Topics
MAX_TOPIC_CHARS = 249
TOPIC_NAME_PATTERN = rf"^(?!\.{{1,2}}$(?![\s\S]))[A-Za-z0-9._-]{{1,{MAX_TOPIC_CHARS}}}$(?![\s\S])"
TOPIC_NAME_RULE = f'1 to {MAX_TOPIC_CHARS} of letters, digits, ".", "_" and "-", and neither "." nor ".."'
_PATTERN_WORD = "(?:[*#]|[A-Za-z0-9_-]*)"
TOPIC_PATTERN_PATTERN = (
    rf"^(?=[A-Za-z0-9._*#-]{{1,{MAX_TOPIC_CHARS}}}$(?![\s\S])){_PATTERN_WORD}(?:\.{_PATTERN_WORD})*$(?![\s\S])"
)
MAX_SUBSCRIPTION_CHARS = 100
SUBSCRIPTION_NAME_PATTERN = TOPIC_NAME_PATTERN.replace(str(MAX_TOPIC_CHARS), str(MAX_SUBSCRIPTION_CHARS))
SUBSCRIPTION_NAME_RULE = TOPIC_NAME_RULE.replace(str(MAX_TOPIC_CHARS), str(MAX_SUBSCRIPTION_CHARS))
MAX_BATCH_RECORDS = 1_000  # in one publish
DEFAULT_RECORD_BYTES = 1_000_000  # of key, headers and value together
MAX_RECORD_BYTES = 10_000_000
MAX_RECORD_KEY_CHARS = 255
DEFAULT_RETENTION_HOURS = 168.0
MAX_RETENTION_HOURS = 8_766_000
MAX_PATTERNS = 100  # of a subscription
MAX_FILTER_BYTES = 10_000  # of a subscription or a search, as JSON: each record or item is compared with it
MAX_FILTER_VALUES = (
    20  # in the arrays of a filter: each is compared with each value of the arrays that it is looked for in
)
MAX_OFFSET = 2**62
MAX_POLL_SECONDS = 60  # that a read of a topic waits for its first record
DEFAULT_MAX_IN_FLIGHT = 1_000
MAX_IN_FLIGHT = 10_000
MAX_SUBJECT_NAME_CHARS = 255  # of the schema registry
RECORD_KEY_RULE = f"a text of 1 to {MAX_RECORD_KEY_CHARS} characters, or null for none"
RETENTION_RULE = f"a number above 0, at most {MAX_RETENTION_HOURS} (a thousand years), or null for ever"
START_RULE = '"earliest", "latest", an offset, or a time in ISO 8601'

# Keys and access tokens
MAX_KEY_NAME_CHARS = 100
MAX_KEY_AGENTS = 100
MAX_KEY_SECONDS = 3650 * 86_400
DEFAULT_GRACE_SECONDS = 86_400.0
MAX_GRACE_SECONDS = 30 * 86_400  # that the secret before a rotation stays valid
MAX_TOKEN_SECONDS = 7 * 86_400
MAX_SUBJECT_CHARS = 255
MAX_TENANT_CHARS = 100
PRINTABLE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$(?![\s\S])"

# Pages and cursors
PAGE_ITEMS = 100  # where the client does not say
HISTORY_EXCHANGES = 50  # of a thread, where the agent does not say
HISTORY_BYTES = 20_000_000  # of a thread, at most: more would fill the memory of the worker
HISTORY_TOKENS = 50_000  # of a thread, that an adapter hands on where the agent does not say
MAX_PAGE_ITEMS = 1_000
JSON_PAGE_BYTES = 1_000_000  # of an answer with a list, unless one item has more
MAX_SEQ = 2**31 - 1  # of an event in its message's log
MAX_POSITION = 2**63 - 1  # of an event in its thread's log, and of a thread's key
STREAM_PAGE_EVENTS = 200  # that one reader of a stream is given at once
STREAM_PAGE_BYTES = 256_000  # of data that one reader of a stream is given at once, unless one event has more

PAGE_RULE = f"a whole number from 1 to {MAX_PAGE_ITEMS}"

# Processes
MAX_CONCURRENCY = 100_000  # messages of one agent at once, in all workers together
STOP_MARGIN_SECONDS = 15.0  # beyond SHUTDOWN_GRACE, until a child that does not stop is killed


_THREAD_ID = re.compile(THREAD_ID_PATTERN)


def is_agent_name(text: str) -> bool:
    """Whether AGENT_NAME_RULE allows the name. The class `Agent` checks each new agent. treadle.register_agents has the
    same rule, with one exception, for workers of an earlier release: an agent that is registered already keeps its
    name."""
    return 1 <= len(text) <= MAX_AGENT_NAME_CHARS and _THREAD_ID.match(text) is not None


def is_request_id(value: str | int) -> bool:
    return len(str(value)) <= MAX_REQUEST_ID_CHARS


def is_thread_id(text: str) -> bool:
    return 1 <= len(text) <= MAX_THREAD_ID_CHARS and _THREAD_ID.match(text) is not None
