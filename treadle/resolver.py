"""The resolver's team with a model of your own: `team(model, name, clarifier)`."""

from service.agents.resolver.model_requests import Ask, Clarify, DoTask, MakePlan, Model, RevisePlan, WriteAnswer
from service.agents.resolver.team import team

__all__ = ["Ask", "Clarify", "DoTask", "MakePlan", "Model", "RevisePlan", "WriteAnswer", "team"]
