"""A home directory for users without one, as Bokeh cannot be imported without it."""

from __future__ import annotations

import os

_NO_HOME = "/nonexistent"
"""Debian's home directory for users who have none."""


def ensure_home() -> None:
    """Set HOME if it is not set and the system does not know the user, as in many containers."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = _NO_HOME
