"""A home directory where the system knows none: Bokeh will not be imported without one."""

from __future__ import annotations

import os
from pathlib import Path

_NONE = "/nonexistent"
"""What Debian calls the home of users who have none."""


def ensure_home() -> None:
    """Set HOME if it is not, and the user is none of the system's, as in many containers."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = _NONE
