"""A home directory for users without one: Bokeh cannot be imported without."""

from __future__ import annotations

import os

_NO_HOME = "/nonexistent"
"""The home directory that Debian gives to users who have none."""


def ensure_home() -> None:
    """Set HOME if it is not set and the system does not know the user, as in many containers."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = _NO_HOME
