"""The resolver's team with a model of your own: `team(model, name, clarifier)`."""

from service.agents.resolver.model_requests import (
    Clarify,
    DoTask,
    MakePlan,
    Model,
    ModelRequest,
    RevisePlan,
    WriteAnswer,
)
from service.agents.resolver.team import team

__all__ = ["Clarify", "DoTask", "MakePlan", "Model", "ModelRequest", "RevisePlan", "WriteAnswer", "team"]
