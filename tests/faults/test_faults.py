"""A short run of the fault suite: real processes under load, faults of all types, and the proof that nothing was lost,
doubled or reordered (`make faults` runs it longer)."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

LIMIT_SECONDS = 400.0  # after its load a run waits at most two minutes for everything to end


@pytest.mark.long
def test_a_short_run_of_faults_breaks_no_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faults", "--minutes", "0.4", "--rate", "40", "--pause", "1"]
    command += ["--seed", str(random.randrange(2**32)), "--json", str(tmp_path / "result.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout


def test_each_fault_says_what_it_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) > 20
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
