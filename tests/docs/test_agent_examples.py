"""The agents in the docs: each page is a module, and its agents answer as the page says."""

import importlib
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.agents import registry
from service.config import Settings
from tests.support.documents import AGENTS, DOCS, README, blocks
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.repository import ROOT

# agent: (message, final state, result or error)
EXPECTED: dict[str, tuple[Any, str, Any]] = {
    "shout": ("hello there", "completed", "HELLO THERE"),
    "recall": ("one", "completed", "one"),
    "guided": ("go", "completed", "go"),
    "total": ({"customer": "Ada", "cents": [250, 1200]}, "completed", {"customer": "Ada", "total_cents": 1450}),
    "patient": ("wait", "completed", "wait"),
    "fussy": ("now", "failed", "Say please."),
    "count": ("3", "completed", "I counted to 3."),
    "report": ("rain", "completed", "2 things about rain"),
    "survey": ("one two", "completed", "ONE TWO"),
    "tally": ("one two", "completed", 2),
    "warm": ("one", "completed", 1),
    "poet": ("The river", "completed", "The river quietly goes on and on"),
}


def write_modules(folder: Path) -> list[str]:
    """Write the Python blocks of each page as one module; returns the names of the modules."""
    names = []
    for page in [README, DOCS / "start.md", *AGENTS]:
        if code := [block.text for block in blocks(page, "python")]:
            place = "_".join(page.relative_to(ROOT).with_suffix("").parts)
            names.append(f"shown_in_{place.replace('-', '_').lower()}")
            folder.joinpath(f"{names[-1]}.py").write_text("\n".join(code))
    return names


async def test_the_agents_of_the_docs_answer(
    start_worker: StartWorker,
    start_api: StartApi,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = write_modules(tmp_path)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = registry.load(msgspec.structs.replace(settings, agents=tuple(names)))
    modules = [importlib.import_module(name) for name in names]
    shown = {row["agent"] for row in found.rows()} - {"echo", "claude", "resolver", "clarifier"}
    assert shown == set(EXPECTED)

    await start_worker(*(agent for name in shown if (agent := found.get(name))))
    api = await start_api()
    for name, (message, state, outcome) in EXPECTED.items():
        status = await api.settled(await api.submit(message, agent=name, thread_id=name))
        assert (status["state"], status["result"] if state == "completed" else status["error"]) == (state, outcome), (
            status
        )
    again = await api.settled(await api.submit("two", agent="recall", thread_id="recall"))
    assert (again["result"], again["usage"]) == ("one / two", {"exchanges": 1})
    polite = await api.settled(await api.submit("please", agent="fussy"))
    assert (polite["result"], polite["attempt"]) == ("Very well.", 2)
    for module in modules:
        monkeypatch.delitem(sys.modules, module.__name__)
