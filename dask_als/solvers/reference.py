"""A switch for debugging: solve least squares row by row in NumPy instead of in the kernel."""

from __future__ import annotations

import os

from dask_als.errors import InputError
from dask_als.settings.training import TrainSettings

VARIABLE = "DASK_ALS_SOLVER"
"""The environment variable that chooses the solver: ``kernel``, the default, or ``reference``."""


def reference_is_wanted() -> bool:
    """Tell whether the environment of this process asks for the NumPy reference solver.

    Raises
    ------
    InputError
        If the variable has another value.
    """
    value = os.environ.get(VARIABLE, "kernel")
    if value not in ("kernel", "reference"):
        raise InputError(f"{VARIABLE} is {value!r}; it must be kernel or reference")
    return value == "reference"


def check_reference(settings: TrainSettings) -> None:
    """Check that the chosen solver exists for the settings.

    Raises
    ------
    InputError
        If the environment asks for the reference and the settings are not explicit ALS.
    """
    if not reference_is_wanted():
        return
    if (settings.method, settings.feedback) != ("als", "explicit"):
        raise InputError(
            f"{VARIABLE}=reference solves explicit ALS only; unset it for method "
            f"{settings.method} with {settings.feedback} feedback"
        )
    if settings.nonnegative:
        raise InputError(
            f"{VARIABLE}=reference solves factors of any sign only; unset it for --nonnegative"
        )
