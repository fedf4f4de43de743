"""Fast, safe transfer of research data over UFTP (UNICORE FTP) and plain FTP."""

from __future__ import annotations

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("uftp")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
