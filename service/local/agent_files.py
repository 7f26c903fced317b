"""Whether the agents can be loaded, and the files that they come from.

`treadle up --reload` asks a process of its own, `python -m service.local.agent_files`. It prints the JSON of a Probe.
"""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from service import config
from service.config import Settings
from service.errors import ConfigError
from service.local.parent_watch import follow_supervisor

OWN_PACKAGES = frozenset({"__main__", "__mp_main__", "service", "treadle"})


class Probe(msgspec.Struct, frozen=True):
    """`error` is one sentence if the agents cannot be loaded; `files` are then those that were read until there."""

    files: list[str]
    error: str | None = None


def probe(settings: Settings) -> Probe:
    """Load the agents as a worker does."""
    from service.agents import registry  # the supervisor, which reads the answer, does without

    error: Exception | None = None
    try:
        registry.load(settings)
    except ConfigError as raised:
        error = raised
    found = {*_loaded(settings), *(_of_traceback(error) if error else ()), *_named(settings)}
    return Probe(sorted(found), None if error is None else str(error))


def _loaded(settings: Settings) -> Iterator[str]:
    """The files of the imported modules, without those of installed packages that AGENTS does not name."""
    named = {name.partition(".")[0] for name in settings.agents}
    for name, module in list(sys.modules.items()):
        file, top = getattr(module, "__file__", None), name.partition(".")[0]
        if file and top not in OWN_PACKAGES and (top in named or not _is_installed(file)):
            yield file


def _named(settings: Settings) -> Iterator[str]:
    """The files that the settings name, whether they could be read or not."""
    for name in settings.agents:
        if name.endswith(".json"):
            yield os.path.abspath(name)
            continue
        with suppress(Exception):  # of the import of a package above the module
            spec = importlib.util.find_spec(name)
            if spec and spec.origin:
                yield spec.origin
    if settings.agent_templates:
        yield os.path.abspath(settings.agent_templates)


def _of_traceback(error: BaseException | None) -> Iterator[str]:
    """The files through which an error and its causes came."""
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename:
            yield error.filename
        frame = error.__traceback__
        while frame is not None:
            file = frame.tb_frame.f_code.co_filename
            if os.path.isfile(file) and not _is_installed(file) and not _is_ours(file):
                yield file
            frame = frame.tb_next
        error = error.__cause__ or error.__context__


def _is_installed(file: str) -> bool:
    return any(file.startswith(f"{folder}{os.sep}") for folder in _INSTALLED)


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(Path(__file__).parents[1])


_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def main() -> None:
    """Print the probe of the settings of the environment. What the modules print goes to stderr."""
    follow_supervisor(os.environ, 0.0)
    answer = os.dup(1)
    os.dup2(2, 1)
    found = probe(config.load(os.environ))
    sys.stdout.flush()
    os.write(answer, msgspec.json.encode(found))
    os._exit(0)  # without waiting for threads that a module may have started


if __name__ == "__main__":
    main()
