"""The agents of a process: the shipped ones, those in the modules of AGENTS, and those of AGENT_TEMPLATES."""

import importlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.agents import templates
from service.agents.adapters.frameworks import is_installed
from service.agents.adapters.langgraph import config_file
from service.agents.builtin.echo import echo
from service.agents.claude import agent as claude
from service.agents.claude.api import Api as ClaudeApi
from service.agents.definition import Agent
from service.agents.import_errors import reason_of
from service.agents.openai import agent as openai
from service.agents.openai.api import Api as OpenAIApi
from service.agents.resolver import team as resolver
from service.agents.rounds.options import ClientOption
from service.config import Settings
from service.errors import ConfigError

KEYED_AGENTS = (claude.NAME, openai.NAME)  # a worker that has one of them has a key
CLIENT_OPTIONS: tuple[ClientOption, ...] = ("system", "max_tokens", "tools")  # of KEYED_AGENTS, without orders


class Registry:
    """Of a process without ANTHROPIC_API_KEY or OPENAI_API_KEY, `keyless` are the agents that it does not have for this
    reason, each with the setting, and `scripted` those with a scripted model; a worker with a key answers their
    messages, where there is one."""

    def __init__(
        self,
        settings: Settings,
        agents: Iterable[Agent],
        *,
        keyless: Mapping[str, str] | None = None,
        scripted: Collection[str] = (),
    ) -> None:
        self._settings = settings
        self._agents = {agent.name: agent for agent in agents}
        self.keyless = keyless or {}
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
                    **({"client_state": list(agent.limits.client_state)} if agent.limits.client_state else {}),
                    **agent.settings,
                },
            }
            for agent in self._agents.values()
        ]


def load(settings: Settings) -> Registry:
    """Collect the agents of the modules of AGENTS (also searched in the working folder; a langgraph.json in place of a
    module has graphs) and of AGENT_TEMPLATES. Those that ask a model receive its API; without a key they are left out,
    so that a worker with a key answers.

    Raises ConfigError that names the module if it cannot be imported, has no agent, or has an agent whose name is
    taken; likewise for templates.
    """
    openai_api = _openai_api(settings)
    team = resolver.make(settings, openai_api)
    shipped = [echo, claude.claude_agent(claude.NAME, client_options=CLIENT_OPTIONS), *team]
    if is_installed("openai"):
        shipped.append(openai.openai_agent(openai.NAME, client_options=(*CLIENT_OPTIONS, "output")))
    agents: dict[str, Agent] = {agent.name: agent for agent in shipped}
    if (settings.agents or settings.agent_templates) and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in settings.agents:
        is_file = name.endswith(config_file.SUFFIX)
        for agent in config_file.load(name) if is_file else _agents_of_module(name):
            if agents.get(agent.name, agent) is not agent:
                what = name if is_file else f"the module {name}"
                raise ConfigError(f"AGENTS: {what} has an agent {agent.name!r}, but that name is taken: rename it.")
            agents[agent.name] = agent
    only_openai = openai_api is not None and settings.anthropic_api_key is None
    default_template = openai.NAME if only_openai else claude.NAME
    for agent in templates.load(settings.agent_templates, default_template) if settings.agent_templates else ():
        if agent.name in agents:
            raise ConfigError(f"AGENT_TEMPLATES: the name {agent.name!r} is taken by another agent: rename it.")
        agents[agent.name] = agent
    key = settings.anthropic_api_key
    claude_api = ClaudeApi(key, settings.anthropic_base_url, settings.claude_model) if key else None
    keyless = _connect(agents, claude_api, openai_api)
    has_key = claude_api is not None or openai_api is not None
    return Registry(
        settings, agents.values(), keyless=keyless, scripted=() if has_key else [agent.name for agent in team]
    )


def _connect(agents: dict[str, Agent], claude_api: ClaudeApi | None, openai_api: OpenAIApi | None) -> dict[str, str]:
    """Give each agent that asks a model its API. Those without one are removed, and returned with their setting."""
    keyless: dict[str, str] = {}
    for name, agent in list(agents.items()):
        if isinstance(agent, claude.ClaudeAgent) and claude_api:
            agent.connect(claude_api)
        elif isinstance(agent, openai.OpenAIAgent) and openai_api:
            agent.connect(openai_api)
        elif isinstance(agent, claude.ClaudeAgent | openai.OpenAIAgent):
            keyless[name] = agent.key_setting
            del agents[name]
    return keyless


def _openai_api(settings: Settings) -> OpenAIApi | None:
    """None without a key, or without the SDK."""
    if settings.openai_api_key is None or not is_installed("openai"):
        return None
    return OpenAIApi(settings.openai_api_key, settings.openai_base_url, settings.openai_model)


def _agents_of_module(name: str) -> list[Agent]:
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"AGENTS: the module {name} cannot be imported: {reason_of(error)}.") from error
    found = [value for value in vars(module).values() if isinstance(value, Agent)]
    if not found:
        raise ConfigError(f"AGENTS: the module {name} has no agent: decorate a function with @agent.")
    return found
