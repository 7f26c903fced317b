"""The messages of a team that changes code, as Protobuf classes; `proto/treadle/v1` has their source.

    from treadle.v1 import ChangeRequest, Plan

They are types of agents' inputs and results like any other; needs `pip install 'treadle[protobuf]'`.
"""

try:
    from treadle.v1.coding_pb2 import BuildReport, CodingTask, CommitResult, SkeletonPatch
    from treadle.v1.common_pb2 import BuildStatus, ComplexityLevel, StepKind, TraceMetadata
    from treadle.v1.plan_pb2 import ChangeRequest, Plan, PlanStep
except ImportError as error:
    raise ImportError(f"treadle.v1 needs Protobuf: run pip install 'treadle[protobuf]' ({error}).") from error

from service.agents.types import TYPES

for message in (BuildReport, ChangeRequest, CodingTask, CommitResult, Plan, PlanStep, SkeletonPatch, TraceMetadata):
    TYPES.add(message)

__all__ = [
    "BuildReport",
    "BuildStatus",
    "ChangeRequest",
    "CodingTask",
    "CommitResult",
    "ComplexityLevel",
    "Plan",
    "PlanStep",
    "SkeletonPatch",
    "StepKind",
    "TraceMetadata",
]
