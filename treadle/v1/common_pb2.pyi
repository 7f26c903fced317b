from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class BuildStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUILD_STATUS_UNSPECIFIED: _ClassVar[BuildStatus]
    BUILD_STATUS_SUCCEEDED: _ClassVar[BuildStatus]
    BUILD_STATUS_FAILED: _ClassVar[BuildStatus]
    BUILD_STATUS_CANCELLED: _ClassVar[BuildStatus]

class ComplexityLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPLEXITY_LEVEL_UNSPECIFIED: _ClassVar[ComplexityLevel]
    COMPLEXITY_LEVEL_LOW: _ClassVar[ComplexityLevel]
    COMPLEXITY_LEVEL_MEDIUM: _ClassVar[ComplexityLevel]
    COMPLEXITY_LEVEL_HIGH: _ClassVar[ComplexityLevel]

class StepKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STEP_KIND_UNSPECIFIED: _ClassVar[StepKind]
    STEP_KIND_CREATE: _ClassVar[StepKind]
    STEP_KIND_MODIFY: _ClassVar[StepKind]
    STEP_KIND_DELETE: _ClassVar[StepKind]
    STEP_KIND_TEST: _ClassVar[StepKind]
    STEP_KIND_REVIEW: _ClassVar[StepKind]
BUILD_STATUS_UNSPECIFIED: BuildStatus
BUILD_STATUS_SUCCEEDED: BuildStatus
BUILD_STATUS_FAILED: BuildStatus
BUILD_STATUS_CANCELLED: BuildStatus
COMPLEXITY_LEVEL_UNSPECIFIED: ComplexityLevel
COMPLEXITY_LEVEL_LOW: ComplexityLevel
COMPLEXITY_LEVEL_MEDIUM: ComplexityLevel
COMPLEXITY_LEVEL_HIGH: ComplexityLevel
STEP_KIND_UNSPECIFIED: StepKind
STEP_KIND_CREATE: StepKind
STEP_KIND_MODIFY: StepKind
STEP_KIND_DELETE: StepKind
STEP_KIND_TEST: StepKind
STEP_KIND_REVIEW: StepKind

class TraceMetadata(_message.Message):
    __slots__ = ("traceparent", "tracestate", "thread_id", "message_id")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    THREAD_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    thread_id: str
    message_id: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., thread_id: _Optional[str] = ..., message_id: _Optional[str] = ...) -> None: ...
