from google.protobuf import timestamp_pb2 as _timestamp_pb2
from treadle.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChangeRequest(_message.Message):
    __slots__ = ("request_id", "title", "description", "repository", "paths", "created_at", "trace")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    title: str
    description: str
    repository: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    trace: _common_pb2.TraceMetadata
    def __init__(self, request_id: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., repository: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceMetadata, _Mapping]] = ...) -> None: ...

class PlanStep(_message.Message):
    __slots__ = ("step_id", "kind", "description", "depends_on")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    step_id: str
    kind: _common_pb2.StepKind
    description: str
    depends_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, step_id: _Optional[str] = ..., kind: _Optional[_Union[_common_pb2.StepKind, str]] = ..., description: _Optional[str] = ..., depends_on: _Optional[_Iterable[str]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("plan_id", "request_id", "steps", "rationale", "affected_paths", "complexity", "created_at", "trace")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    AFFECTED_PATHS_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    request_id: str
    steps: _containers.RepeatedCompositeFieldContainer[PlanStep]
    rationale: str
    affected_paths: _containers.RepeatedScalarFieldContainer[str]
    complexity: _common_pb2.ComplexityLevel
    created_at: _timestamp_pb2.Timestamp
    trace: _common_pb2.TraceMetadata
    def __init__(self, plan_id: _Optional[str] = ..., request_id: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[PlanStep, _Mapping]]] = ..., rationale: _Optional[str] = ..., affected_paths: _Optional[_Iterable[str]] = ..., complexity: _Optional[_Union[_common_pb2.ComplexityLevel, str]] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceMetadata, _Mapping]] = ...) -> None: ...
