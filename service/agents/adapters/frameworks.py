"""Which version of an adapter's framework is installed, without importing it."""

import importlib.metadata
import importlib.util


def require(package: str, *, framework: str, extra: str) -> str:
    """The framework with its version. Raises ImportError with the extra to install if the package is missing."""
    if not is_installed(package):
        raise ImportError(f"{framework} is not installed: run pip install 'treadle[{extra}]'.", name=package)
    try:
        return f"{framework} {importlib.metadata.version(package.replace('_', '-'))}"
    except importlib.metadata.PackageNotFoundError:  # installed in another way
        return framework


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
