"""Finds the SQL files and the migrations: a wheel carries them inside the package, a checkout has them at its top."""

from importlib import resources
from pathlib import Path
from typing import Literal


def data_folder(name: Literal["sql", "migrations"]) -> Path:
    """The folder with the files of `sql/` or `migrations/`, in a wheel and in an editable checkout alike."""
    package = Path(str(resources.files("service")))
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name
