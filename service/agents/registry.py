"""Which agents there are: the two that ship, and those in the modules that AGENTS names."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.agents import claude
from service.agents.contract import Agent
from service.agents.echo import echo
from service.config import Settings
from service.errors import ConfigError


class Registry:
    def __init__(self, settings: Settings, agents: Iterable[Agent]) -> None:
        self._settings = settings
        self._agents = {agent.name: agent for agent in agents}
        self._default = claude.NAME if settings.anthropic_api_key else echo.name

    def get(self, name: str) -> Agent | None:
        return self._agents.get(name)

    def rows(self) -> list[dict[str, Any]]:
        """The agents as treadle.register_agents reads them."""
        return [
            {
                "agent": agent.name,
                "queue": agent.queue,
                "timeout_seconds": agent.timeout or self._settings.processing_timeout,
                "max_attempts": agent.max_attempts or self._settings.max_attempts,
                "is_default": agent.name == self._default,
                "input": agent.input_schema,
                "description": agent.description,
            }
            for agent in self._agents.values()
        ]


def load(settings: Settings) -> Registry:
    """Import the modules of AGENTS (found from the working folder, too) and collect their agents.

    Raises ConfigError naming the module that cannot be imported, holds no agent, or takes another one's name.
    """
    agents: dict[str, Agent] = {}
    for agent in (echo, claude.make(settings.anthropic_api_key, settings.anthropic_base_url, settings.model_name)):
        agents[agent.name] = agent
    if settings.agents and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in settings.agents:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise ConfigError(f"AGENTS: the module {name} cannot be imported: {reason}.") from error
        found = [value for value in vars(module).values() if isinstance(value, Agent)]
        if not found:
            raise ConfigError(f"AGENTS: the module {name} has no @agent function.")
        for agent in found:
            if agents.get(agent.name, agent) is not agent:
                raise ConfigError(f"AGENTS: the module {name} has an agent {agent.name!r}, and so has another.")
            agents[agent.name] = agent
    return Registry(settings, agents.values())
