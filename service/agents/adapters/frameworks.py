"""The check that an adapter's framework is installed, without importing it."""

import importlib.util


def require(package: str, *, framework: str, extra: str) -> None:
    """Raises ImportError with the extra to install if the package is missing."""
    if not is_installed(package):
        raise ImportError(f"{framework} is not installed: run pip install 'treadle[{extra}]'.", name=package)


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
