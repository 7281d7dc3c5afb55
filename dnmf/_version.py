"""The version: one place, read by the build and written into every checkpoint."""

from __future__ import annotations

__version__ = "0.1.0"
