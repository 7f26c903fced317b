"""Clients of the HTTP API.

    from treadle.client import Client

    with Client("http://localhost:8000") as client:
        message = client.submit("hello", agent="echo")
        for event in client.stream(message.message_id):
            print(event.text, end="", flush=True)

`AsyncClient` has the same methods as coroutines and asynchronous iterators. Both repeat a call whose answer was lost,
and resume a stream that was cut.
"""

from treadle.client.asynchronous import AsyncClient
from treadle.client.blocking import Client
from treadle.client.blocking_chat import BlockingChat
from treadle.client.chat import Chat, ChatEvent
from treadle.client.details import Changes, Instance, MessageDetails, MessageSummary, Reason, Statistics
from treadle.client.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    MessageCancelled,
    MessageFailed,
    NotFound,
    TooManyRequests,
    TreadleError,
    Unauthorized,
    Unavailable,
)
from treadle.client.model import (
    Accepted,
    Agent,
    DeadLetter,
    Event,
    Message,
    Page,
    PublishedRecord,
    Queue,
    RecordPage,
    Subscription,
    Thread,
    ThreadSummary,
    Token,
    Topic,
    TopicRecord,
    Worker,
)
from treadle.client.producer import AsyncProducer, Delivered

__all__ = [
    "Accepted",
    "Agent",
    "ApiError",
    "AsyncClient",
    "AsyncProducer",
    "BlockingChat",
    "Changes",
    "Chat",
    "ChatEvent",
    "Client",
    "Conflict",
    "DeadLetter",
    "Delivered",
    "Event",
    "Forbidden",
    "Instance",
    "Invalid",
    "Message",
    "MessageCancelled",
    "MessageDetails",
    "MessageFailed",
    "MessageSummary",
    "NotFound",
    "Page",
    "PublishedRecord",
    "Queue",
    "Reason",
    "RecordPage",
    "Statistics",
    "Subscription",
    "Thread",
    "ThreadSummary",
    "Token",
    "TooManyRequests",
    "Topic",
    "TopicRecord",
    "TreadleError",
    "Unauthorized",
    "Unavailable",
    "Worker",
]
