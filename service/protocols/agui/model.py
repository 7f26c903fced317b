"""Requests as clients of the protocol send them, and its events. Unknown fields mean nothing here."""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from service.limits import THREAD_ID_RULE, ThreadId

PROTOCOL_VERSION = "1.0"
MAX_RUN_ID_CHARS = 255

Event: TypeAlias = dict[str, Any]  # absent fields are left out: clients refuse null
Message: TypeAlias = dict[str, Any]

# The descriptions end the sentence "<field> must be ..." (json_input).
Objects: TypeAlias = Annotated[list[dict[str, Any]] | None, Meta(description="a list of objects")]


class Resume(Struct, frozen=True, rename="camel"):
    """The answer to one interrupt."""

    interrupt_id: Annotated[str, Meta(description="the id of an interrupt")]
    status: Annotated[Literal["resolved", "cancelled"], Meta(description="resolved or cancelled")]
    payload: Any = None


class RunInput(Struct, frozen=True, rename="camel"):
    """RunAgentInput."""

    thread_id: Annotated[ThreadId, Meta(description=THREAD_ID_RULE)]
    run_id: Annotated[
        str,
        Meta(min_length=1, max_length=MAX_RUN_ID_CHARS, description=f"a text of 1 to {MAX_RUN_ID_CHARS} characters"),
    ]
    messages: Annotated[list[Message], Meta(description="a list of objects")]
    parent_run_id: Annotated[str | None, Meta(description="a text")] = None
    state: Any = None
    tools: Objects = None
    context: Objects = None
    forwarded_props: Any = None
    resume: Annotated[list[Resume] | None, Meta(description="a list of answers to interrupts")] = None


class AgentInfo(Struct, frozen=True, rename="camel"):
    name: str
    description: str
    class_name: str = "HttpAgent"


class RuntimeInfo(Struct, frozen=True, rename="camel"):
    """What the front end of CopilotKit asks its runtime for."""

    version: str
    agents: dict[str, AgentInfo]
    mode: str = "sse"
    audio_file_transcription_enabled: bool = False
    a2ui_enabled: bool = False
    suggestions: bool = False


class Stopped(Struct, frozen=True, rename="camel"):
    stopped: bool
    message: str | UnsetType = UNSET
