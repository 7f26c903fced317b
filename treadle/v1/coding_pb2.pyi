from google.protobuf import timestamp_pb2 as _timestamp_pb2
from treadle.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SkeletonPatch(_message.Message):
    __slots__ = ("path", "diff")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    path: str
    diff: str
    def __init__(self, path: _Optional[str] = ..., diff: _Optional[str] = ...) -> None: ...

class CodingTask(_message.Message):
    __slots__ = ("task_id", "plan_id", "goal", "paths", "dependencies", "skeleton_patches", "created_at", "trace")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    SKELETON_PATCHES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    plan_id: str
    goal: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    dependencies: _containers.RepeatedScalarFieldContainer[str]
    skeleton_patches: _containers.RepeatedCompositeFieldContainer[SkeletonPatch]
    created_at: _timestamp_pb2.Timestamp
    trace: _common_pb2.TraceMetadata
    def __init__(self, task_id: _Optional[str] = ..., plan_id: _Optional[str] = ..., goal: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., dependencies: _Optional[_Iterable[str]] = ..., skeleton_patches: _Optional[_Iterable[_Union[SkeletonPatch, _Mapping]]] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceMetadata, _Mapping]] = ...) -> None: ...

class BuildReport(_message.Message):
    __slots__ = ("build_id", "task_id", "status", "errors", "log", "started_at", "finished_at", "trace")
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    build_id: str
    task_id: str
    status: _common_pb2.BuildStatus
    errors: _containers.RepeatedScalarFieldContainer[str]
    log: str
    started_at: _timestamp_pb2.Timestamp
    finished_at: _timestamp_pb2.Timestamp
    trace: _common_pb2.TraceMetadata
    def __init__(self, build_id: _Optional[str] = ..., task_id: _Optional[str] = ..., status: _Optional[_Union[_common_pb2.BuildStatus, str]] = ..., errors: _Optional[_Iterable[str]] = ..., log: _Optional[str] = ..., started_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., finished_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceMetadata, _Mapping]] = ...) -> None: ...

class CommitResult(_message.Message):
    __slots__ = ("task_id", "commit", "branch", "message", "paths", "committed_at", "trace")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    commit: str
    branch: str
    message: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    committed_at: _timestamp_pb2.Timestamp
    trace: _common_pb2.TraceMetadata
    def __init__(self, task_id: _Optional[str] = ..., commit: _Optional[str] = ..., branch: _Optional[str] = ..., message: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., committed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceMetadata, _Mapping]] = ...) -> None: ...
