"""Fixtures of the SQL tests."""

import shutil
from pathlib import Path

import pytest

from service.db import migrate as migration
from service.db import schema
from tests.support.migrations import AddMigration


@pytest.fixture
def add_migration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AddMigration:
    """Adds one migration after the newest; its text is given."""

    def add(text: str) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migration.MIGRATIONS_FOLDER, folder)
        (folder / "versions" / "0003_next.py").write_text(text)
        monkeypatch.setattr(migration, "MIGRATIONS_FOLDER", folder)

    assert schema.NEWEST_MIGRATION == "0002", "There is a 0003: let NEXT_MIGRATION follow the newest migration."
    return add
