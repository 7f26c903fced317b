"""Reads a `langgraph.json`: the graphs of an application that was made for LangGraph's server become agents.

{"graphs": {"assistant": "./app/graph.py:graph"}, "env": ".env", "dependencies": ["."]}
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
from dotenv import dotenv_values

from service.agents.adapters.frameworks import require
from service.agents.adapters.langgraph.agent import langgraph_agent
from service.agents.definition import Agent
from service.agents.import_errors import reason_of
from service.errors import ConfigError

SUFFIX = ".json"  # in AGENTS, a name that ends so is such a file
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Graph(msgspec.Struct):
    path: str
    description: str = ""


class _File(msgspec.Struct):
    """Its other fields concern the container that LangGraph builds."""

    graphs: dict[str, str | _Graph]
    dependencies: list[str] = []
    env: str | dict[str, str | int | float | bool] = {}


def load(name: str) -> list[Agent]:
    """The agents of the file with this path. A variable of its `env` is set unless the environment has it.

    Raises ConfigError.
    """
    path = Path(name).absolute()
    try:
        require("langgraph", framework="LangGraph", extra="langgraph")
        found = msgspec.json.decode(path.read_bytes(), type=_File)
        _set_variables(found.env, path.parent)
    except (OSError, UnicodeError, ImportError, msgspec.MsgspecError) as error:
        raise ConfigError(f"AGENTS: {name} cannot be read: {_reason(error)}.") from error
    _add_dependencies(name, found.dependencies, path.parent)
    return [_agent(name, graph, given, path.parent) for graph, given in found.graphs.items()]


def _set_variables(env: str | dict[str, Any], folder: Path) -> None:
    if isinstance(env, str):
        given = dotenv_values(stream=io.StringIO((folder / env).read_text(encoding="utf-8-sig"))) if env else {}
    else:
        given = {name: str(value) for name, value in env.items()}
    for variable, value in given.items():
        if value is not None:
            os.environ.setdefault(variable, value)


def _add_dependencies(name: str, dependencies: list[str], folder: Path) -> None:
    """Raises ConfigError."""
    missing = []
    for dependency in dependencies:
        if not dependency.startswith("."):
            package = PACKAGE.match(dependency)
            try:
                importlib.metadata.distribution(package[0] if package else dependency)
            except (importlib.metadata.PackageNotFoundError, ValueError):
                missing.append(dependency)
            continue
        place = (folder / dependency).resolve()
        if not place.is_dir():
            raise ConfigError(f"AGENTS: {name} has the dependency {dependency!r}, but there is no such folder.")
        outer = [place.parent] if (place / "__init__.py").exists() else []
        inner = [place / "src"] if (place / "src").is_dir() else []
        for one in (*inner, place, *outer):
            if str(one) not in sys.path:
                sys.path.append(str(one))
    if missing:
        listed = " ".join(f"'{one}'" for one in missing)
        raise ConfigError(f"AGENTS: {name} needs packages that are not installed: run pip install {listed}.")


def _agent(name: str, graph: str, given: str | _Graph, folder: Path) -> Agent:
    """Raises ConfigError."""
    place, description = (given, "") if isinstance(given, str) else (given.path, given.description)
    source, colon, attribute = place.rpartition(":")
    if not colon or not attribute:
        raise ConfigError(f"AGENTS: {name}: the graph {graph!r} must be path/to/file.py:name or module:name.")
    try:
        module = _import(source, folder)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"AGENTS: {name}: {source} cannot be imported: {reason_of(error)}.") from error
    try:
        return langgraph_agent(graph, getattr(module, attribute), keep_state=True, description=description)
    except AttributeError:
        raise ConfigError(f"AGENTS: {name}: {source} has no {attribute!r}.") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"AGENTS: {name}: the graph {graph!r} cannot be an agent: {_reason(error)}.") from error


def _import(source: str, folder: Path) -> Any:
    """The module of this name, or in this file; a file is imported once."""
    if not source.endswith(".py") and "/" not in source:
        return importlib.import_module(source)
    file = (folder / source).resolve()
    module_name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
