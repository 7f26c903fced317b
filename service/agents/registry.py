"""The agents of a process: the shipped ones, those in the modules of AGENTS, and those of AGENT_TEMPLATES."""

import importlib
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from service.agents import templates
from service.agents.builtin.echo import echo
from service.agents.claude import agent as claude
from service.agents.claude.api import Api
from service.agents.claude.options import ClientOption
from service.agents.definition import Agent
from service.agents.resolver import team as resolver
from service.config import Settings
from service.errors import ConfigError

KEYED_AGENT = claude.NAME  # a worker that has it has a key
CLIENT_OPTIONS: tuple[ClientOption, ...] = (
    "system",
    "max_tokens",
    "tools",
)  # of `claude`: it has no orders


class Registry:
    """Of a process without ANTHROPIC_API_KEY, `keyless` are the agents that it does not have, and `scripted` those with
    a scripted model; a worker with a key answers their messages, where there is one."""

    def __init__(
        self,
        settings: Settings,
        agents: Iterable[Agent],
        *,
        keyless: Sequence[str] = (),
        scripted: Collection[str] = (),
    ) -> None:
        self._settings = settings
        self._agents = {agent.name: agent for agent in agents}
        self.keyless = keyless
        self.scripted = scripted

    @property
    def names(self) -> list[str]:
        return sorted(self._agents)

    def get(self, name: str) -> Agent | None:
        return self._agents.get(name)

    @property
    def topics(self) -> dict[str, Sequence[str]]:
        """The topics of the agents that declare some."""
        return {name: agent.limits.topics for name, agent in self._agents.items() if agent.limits.topics}

    def rows(self) -> list[dict[str, Any]]:
        """The agents in the form that treadle.register_agents takes."""
        return [
            {
                "agent": agent.name,
                "queue": agent.limits.queue,
                "timeout_seconds": agent.limits.timeout or self._settings.processing_timeout,
                "max_attempts": agent.limits.max_attempts or self._settings.max_attempts,
                "input": agent.input_schema,
                "description": agent.limits.description,
                "settings": {
                    "run_in": agent.limits.run_in,
                    "concurrency": agent.limits.concurrency,
                    "idle_timeout": agent.limits.idle_timeout,
                    "while_busy": agent.limits.while_busy,
                    "max_losses": agent.limits.max_losses,
                },
            }
            for agent in self._agents.values()
        ]


def load(settings: Settings) -> Registry:
    """Collect the agents of the modules of AGENTS (also searched in the working folder) and of AGENT_TEMPLATES. Those
    that ask Claude receive the API; without a key they are left out, so that a worker with a key answers.

    Raises ConfigError that names the module if it cannot be imported, has no agent, or has an agent whose name is
    taken; likewise for templates.
    """
    team = resolver.make(settings)
    shipped = (echo, claude.claude_agent(claude.NAME, client_options=CLIENT_OPTIONS), *team)
    agents: dict[str, Agent] = {agent.name: agent for agent in shipped}
    if (settings.agents or settings.agent_templates) and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in settings.agents:
        for agent in _agents_of_module(name):
            if agents.get(agent.name, agent) is not agent:
                raise ConfigError(
                    f"AGENTS: the module {name} has an agent {agent.name!r}, but that name is taken: rename it."
                )
            agents[agent.name] = agent
    for agent in templates.load(settings.agent_templates) if settings.agent_templates else ():
        if agent.name in agents:
            raise ConfigError(f"AGENT_TEMPLATES: the name {agent.name!r} is taken by another agent: rename it.")
        agents[agent.name] = agent
    asking = [agent for agent in agents.values() if isinstance(agent, claude.ClaudeAgent)]
    if settings.anthropic_api_key is None:
        keyless = [agents.pop(agent.name).name for agent in asking]
        scripted = [agent.name for agent in team]
        return Registry(settings, agents.values(), keyless=keyless, scripted=scripted)
    api = Api(settings.anthropic_api_key, settings.anthropic_base_url, settings.model_name)
    for agent in asking:
        agent.connect(api)
    return Registry(settings, agents.values())


def _agents_of_module(name: str) -> list[Agent]:
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ConfigError(f"AGENTS: the module {name} cannot be imported: {reason}.") from error
    found = [value for value in vars(module).values() if isinstance(value, Agent)]
    if not found:
        raise ConfigError(f"AGENTS: the module {name} has no agent: decorate a function with @agent.")
    return found
