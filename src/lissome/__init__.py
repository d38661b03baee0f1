"""Lissome: networks that carry structure."""

from lissome._version import __version__

__all__ = ["__version__"]
