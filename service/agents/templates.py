"""Agents that are a few lines of YAML, in the file that AGENT_TEMPLATES names:

    agents:
      - name: translator
        system: Translate into French.
      - name: desk
        model: claude-haiku-4-5
        tools: [mytools:find_order, mytools:refund]
        timeout: 300
      - name: counter
        template: service.agents.adapters.http:http_agent
        url: http://localhost:9000/

Each is what its template, a function, makes of the other keys. Where none is named that is claude_agent; the tools of
its entries are functions by their place, or definitions of tools that Anthropic runs.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from service.agents.claude.agent import NAME as CLAUDE
from service.agents.claude.agent import claude_agent
from service.agents.claude.tools import arguments
from service.agents.contract import Agent
from service.config import WORDS
from service.errors import ConfigError

# What an entry for claude_agent may say.
_Claude = arguments(
    CLAUDE,
    list(inspect.signature(claude_agent).parameters.values()),
    get_type_hints(claude_agent) | {"tools": list[str | dict[str, Any]]},
)


class _Wrong(Exception):
    """What is wrong with an entry, without its name."""


def load(path: Path) -> list[Agent]:
    """Read the file and make its agents; raises ConfigError with one sentence naming the entry at fault."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"AGENT_TEMPLATES: {path} cannot be read: {_line(error)}.") from None
    entries = content.get("agents") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(content) > 1:
        raise ConfigError(f"AGENT_TEMPLATES: {path} is not a mapping of `agents` to a list, and nothing else.")
    agents: dict[str, Agent] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not name or not isinstance(name, str):
            raise ConfigError(f"AGENT_TEMPLATES: entry {number} of {path} is not a mapping with a name.")
        try:
            if name in agents:
                raise _Wrong("is there twice")
            agents[name] = _made({str(key): value for key, value in entry.items()})
        except _Wrong as wrong:
            raise ConfigError(f"AGENT_TEMPLATES: the agent {name!r} of {path} {wrong}.") from wrong.__cause__
    return list(agents.values())


def _made(entry: dict[str, Any]) -> Agent:
    """The agent of an entry."""
    template = entry.pop("template", CLAUDE)
    factory = claude_agent if template == CLAUDE else _found("template", template)
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        raise _Wrong(f"has the template {template!r}, which is no function") from None
    known = signature.parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    if not takes_all and (unknown := [key for key in entry if key not in known]):
        raise _Wrong(f"has the unknown key {unknown[0]!r}")
    if factory is claude_agent:
        entry = _checked(entry)
    try:
        signature.bind(**entry)
        agent = factory(**entry)
    except (Exception, SystemExit) as error:
        raise _Wrong(f"cannot be made: {_line(error)}") from error
    if not isinstance(agent, Agent) or agent.name != entry["name"]:
        raise _Wrong(f"has the template {template!r}, which makes no agent of this name")
    return agent


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """The keys of an entry for claude_agent, its tools found."""
    try:
        msgspec.convert(entry, _Claude)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        for pattern, words in WORDS:
            reason = re.sub(pattern, words, reason)
        raise _Wrong(f"has a {place.rstrip('`')} that does not fit: {reason}") from None
    tools = [tool if isinstance(tool, Mapping) else _found("tool", tool) for tool in entry.get("tools", ())]
    return entry | {"tools": tools}


def _found(what: str, place: Any) -> Callable[..., Any]:
    """What stands at `module:name`."""
    module, _, name = str(place).partition(":")
    if not module or not name:
        expected = f"{CLAUDE} or module:name" if what == "template" else "module:name"
        raise _Wrong(f"has the unknown {what} {place!r}; it is {expected}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise _Wrong(f"has the {what} {place!r}, which cannot be imported: {_line(error)}") from error
    if not callable(found):
        raise _Wrong(f"has the {what} {place!r}, which is no function")
    return found  # type: ignore[no-any-return]


def _line(error: BaseException) -> str:
    """What an error says, in a line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".") or type(error).__name__
