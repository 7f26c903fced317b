"""/v1/models: the agents that the caller may address."""

from litestar.params import FromPath

from service.errors import NotFound
from service.protocols.openai.calls import Caller, Services, get
from service.protocols.openai.model import Model, ModelList
from service.queues.model import Agent


@get("/models", scope="read")
async def list_models(principal: Caller, openai: Services) -> ModelList:
    return ModelList([_model(agent) for agent in await openai.queues.agents(principal)])


@get("/models/{model:str}", scope="read")
async def get_model(model: FromPath[str], principal: Caller, openai: Services) -> Model:
    for agent in await openai.queues.agents(principal):
        if agent.agent == model:
            return _model(agent)
    raise NotFound(f"There is no model (agent) {model[:100]!r}.")


HANDLERS = [list_models, get_model]


def _model(agent: Agent) -> Model:
    return Model(agent.agent, int(agent.registered_at.timestamp()))
