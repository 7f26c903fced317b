"""The JSON of webhooks."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from service.limits import (
    DEFAULT_GRACE_SECONDS,
    MAX_AGENT_NAME_CHARS,
    MAX_GRACE_SECONDS,
    MAX_QUEUE_NAME_CHARS,
    MAX_URL_CHARS,
    PRINTABLE_PATTERN,
)

Event = Literal[
    "message.completed",
    "message.failed",
    "message.cancelled",
    "message.input_required",
    "subscription.dead_lettered",
]
Format = Literal["standard", "openai"]
ENDS: tuple[Event, ...] = ("message.completed", "message.failed", "message.cancelled")
MAX_NAMES = 100  # of agents, and of queues
MAX_DESCRIPTION_CHARS = 500

# The descriptions end the sentence "<field> must be ..." (json_input).
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="an https address such as https://example.com/hook; plain http needs WEBHOOK_HTTP",
    ),
]
Events = Annotated[
    list[Event],
    Meta(
        min_length=1,
        max_length=5,
        description="a list of message.completed, message.failed, message.cancelled, message.input_required and"
        " subscription.dead_lettered",
    ),
]
Agents = Annotated[
    Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_NAME_CHARS)]],
        Meta(min_length=1, max_length=MAX_NAMES),
    ]
    | None,
    Meta(description=f"a list of 1 to {MAX_NAMES} names of agents, or null for all agents"),
]
Queues = Annotated[
    Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_QUEUE_NAME_CHARS)]],
        Meta(min_length=1, max_length=MAX_NAMES),
    ]
    | None,
    Meta(description=f"a list of 1 to {MAX_NAMES} names of queues, or null for all queues"),
]
Description = Annotated[
    str,
    Meta(
        max_length=MAX_DESCRIPTION_CHARS,
        pattern=PRINTABLE_PATTERN,
        description=f"a text of at most {MAX_DESCRIPTION_CHARS} characters, none of them a control character",
    ),
]
Enabled = Annotated[bool, Meta(description="true or false")]


class NewWebhook(Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint to be created. `format` openai: bodies as OpenAI's webhooks have them."""

    url: Url
    events: Events = msgspec.field(default_factory=lambda: list(ENDS))
    agents: Agents = None
    queues: Queues = None
    format: Annotated[Format, Meta(description="standard or openai")] = "standard"
    description: Description = ""
    enabled: Enabled = True


class WebhookChanges(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What changes of a webhook; a field that is left out stays as it is."""

    url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    agents: Agents | UnsetType = UNSET
    queues: Queues | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    enabled: Enabled | UnsetType = UNSET


class SecretRotation(Struct, frozen=True, forbid_unknown_fields=True):
    """How long the old secrets sign as well."""

    grace_seconds: Annotated[
        float,
        Meta(ge=0, le=MAX_GRACE_SECONDS, description=f"a number of seconds from 0 to {MAX_GRACE_SECONDS} (30 days)"),
    ] = DEFAULT_GRACE_SECONDS


class Outcome(Struct, frozen=True):
    """How the last delivery went. `error` null: it was delivered. `status` null: there was no answer. `message_id`: the
    delivery, which is a message. `failing_since`: since when every one that is known has failed."""

    at: datetime
    message_id: UUID
    status: int | None
    error: str | None
    succeeded_at: datetime | None
    failing_since: datetime | None


class Webhook(Struct, frozen=True):
    """An endpoint without its secret. `disabled_reason`: why Treadle disabled it. `former_until`: until then the secret
    before the last rotation signs as well."""

    webhook_id: UUID
    url: str
    events: list[str]
    agents: list[str] | None
    queues: list[str] | None
    format: Format
    description: str
    enabled: bool
    disabled_reason: str | None
    created_at: datetime
    former_until: datetime | None
    last_delivery: Outcome | None


class CreatedWebhook(Struct, frozen=True):
    """`secret` signs the deliveries. It is shown this once."""

    webhook_id: UUID
    secret: str
    url: str
    events: list[Event]
    format: Format


class Secret(Struct, frozen=True):
    """`former_until`: until then the secrets before this one sign as well."""

    secret: str
    former_until: datetime | None


class Delivery(Struct, frozen=True):
    """The message that makes the delivery."""

    message_id: UUID


class PushAddress(Struct, frozen=True):
    """An address that is told of one message, for clients of A2A. A list of them has no credentials."""

    config_id: str
    url: str
    token: str | None
    scheme: str | None
    credentials: str | None = None
