"""Fixtures of the SQL tests."""

import shutil
from pathlib import Path

import pytest

from service.db import migrate as migration
from tests.support.migrations import NEXT, AddMigration


@pytest.fixture
def add_migration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AddMigration:
    """Adds one migration after the newest; its text is given."""

    def add(text: str) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migration.MIGRATIONS_FOLDER, folder)
        (folder / "versions" / f"{NEXT}_next.py").write_text(text)
        monkeypatch.setattr(migration, "MIGRATIONS_FOLDER", folder)

    return add
