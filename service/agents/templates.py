"""Agents that are described in a few lines of YAML, in the file that AGENT_TEMPLATES names:

    agents:
      - name: translator
        system: Translate into French.
      - name: desk
        model: claude-haiku-4-5
        tools: [mytools:find_order, mytools:refund]
        timeout: 300
      - name: counter
        template: treadle.adapters:http_agent
        url: http://localhost:9000/

A template is one of PROVIDERS, or a function (`module:name`) that makes an agent; the other keys of the entry are its
arguments. The default is `claude`; for a worker that has only a key of OpenAI, `openai`. Tools are functions
(`module:name`), or definitions of tools that the provider runs; `output` is a type (`module:name`) or a JSON Schema.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, get_type_hints

import msgspec
import yaml

from service.agents.adapters.http import http_agent
from service.agents.claude.agent import NAME as CLAUDE
from service.agents.claude.agent import claude_agent
from service.agents.definition import Agent
from service.agents.import_errors import reason_of
from service.agents.limits import LimitOptions, Limits
from service.agents.openai.agent import NAME as OPENAI
from service.agents.openai.agent import openai_agent
from service.agents.rounds.tools import arguments
from service.config import explain_misfit
from service.errors import ConfigError

PROVIDERS: dict[str, Callable[..., Agent]] = {CLAUDE: claude_agent, OPENAI: openai_agent, "http": http_agent}


class _EntryError(Exception):
    """An entry is wrong. The text is the second half of a sentence that begins with the agent's name."""


def load(path: Path, default: str = CLAUDE) -> list[Agent]:
    """Read the file and make its agents; those without a template by the `default` one. Raises ConfigError with one
    sentence that names the faulty entry."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"AGENT_TEMPLATES: {path} cannot be read: {_one_line(error)}.") from None
    entries = content.get("agents") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(content) > 1:
        raise ConfigError(f"AGENT_TEMPLATES: {path} must have one key, `agents`, whose value is a list.")
    agents: dict[str, Agent] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not name or not isinstance(name, str):
            raise ConfigError(f"AGENT_TEMPLATES: entry {number} of {path} must be a mapping with a name.")
        try:
            if name in agents:
                raise _EntryError("appears twice")
            agents[name] = _make({"template": default} | {str(key): value for key, value in entry.items()})
        except _EntryError as error:
            raise ConfigError(f"AGENT_TEMPLATES: the agent {name!r} of {path} {error}.") from error.__cause__
    return list(agents.values())


def _make(entry: dict[str, Any]) -> Agent:
    """Call the entry's template with the entry's other keys."""
    template = entry.pop("template")
    factory = PROVIDERS.get(template) if isinstance(template, str) else None
    factory = factory or _import("template", template)
    try:
        parameters, takes_any_key = _parameters(factory)
    except (TypeError, ValueError):
        raise _EntryError(f"has the template {template!r}, which is not a function") from None
    known = {parameter.name for parameter in parameters}
    if not takes_any_key and (unknown := [key for key in entry if key not in known]):
        raise _EntryError(f"has the unknown key {unknown[0]!r}")
    if factory in _ENTRIES:
        entry = _model_arguments(entry, _ENTRIES[factory])
    try:
        inspect.signature(factory).bind(**entry)
        agent = factory(**entry)
    except (Exception, SystemExit) as error:
        raise _EntryError(f"cannot be made: {_one_line(error)}") from error
    if not isinstance(agent, Agent) or agent.name != entry["name"]:
        raise _EntryError(f"has the template {template!r}, which does not return an agent of this name")
    return agent


def _parameters(factory: Callable[..., Any]) -> tuple[list[inspect.Parameter], bool]:
    """The factory's parameters, `**limits: Unpack[LimitOptions]` replaced by its options; and whether it takes any
    other key. Raises TypeError or ValueError if the factory has no signature."""
    found: list[inspect.Parameter] = []
    takes_any_key = False
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            found.append(parameter)
        elif _takes_limit_options(factory, parameter.annotation):
            found += [
                inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=field.default)
                for field in msgspec.structs.fields(Limits)
            ]
        else:
            takes_any_key = True
    return found, takes_any_key


def _takes_limit_options(factory: Callable[..., Any], annotation: Any) -> bool:
    """Whether the annotation is Unpack[LimitOptions]. One that cannot be evaluated is not: a module may import the
    names of its annotations for type checkers only."""
    if isinstance(annotation, str):  # by `from __future__ import annotations`
        try:
            annotation = eval(annotation, vars(sys.modules[factory.__module__]))
        except Exception:
            return False
    return get_origin(annotation) is Unpack and get_args(annotation) == (LimitOptions,)


def _entry_type(factory: Callable[..., Any]) -> type[msgspec.Struct]:
    """The keys of an entry for a factory of agents that ask a model, with their types."""
    names_and_objects = list[str | dict[str, Any]]
    written = {"tools": names_and_objects, "mcp_servers": names_and_objects, "output": str | dict[str, Any]}
    hints = get_type_hints(LimitOptions) | get_type_hints(factory) | written
    return arguments(factory.__name__, _parameters(factory)[0], hints)


_ENTRIES: dict[Callable[..., Any], type[msgspec.Struct]] = {
    factory: _entry_type(factory) for factory in (claude_agent, openai_agent)
}


def _model_arguments(entry: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The arguments of the factory: the entry, checked, with its tools and its output imported."""
    try:
        msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        place, reason = explain_misfit(error, kind)
        raise _EntryError(f"has a {place} that does not fit: {reason}") from None
    imported: dict[str, Any] = {
        "tools": [tool if isinstance(tool, Mapping) else _import("tool", tool) for tool in entry.get("tools", ())]
    }
    if isinstance(output := entry.get("output"), str):
        imported["output"] = _import("output", output)
    return entry | imported


def _import(kind: str, place: Any) -> Callable[..., Any]:
    """The function or type at `module:name`; `kind` is `template`, `tool` or `output`, for the error."""
    module, _, name = str(place).partition(":")
    if not module or not name:
        expected = f"{', '.join(PROVIDERS)} or module:name" if kind == "template" else "module:name"
        raise _EntryError(f"has the unknown {kind} {place!r}; write {expected}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise _EntryError(f"has the {kind} {place!r}, which cannot be imported: {reason_of(error)}") from error
    if not callable(found):
        raise _EntryError(f"has the {kind} {place!r}, which is not a function")
    return found  # type: ignore[no-any-return]  # the caller's module has no types here


def _one_line(error: BaseException) -> str:
    """The error's text on one line, without its full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
