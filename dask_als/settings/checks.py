"""Checks of single settings; the error names the setting, its value and the allowed values."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_type_hints

from dask_als.errors import InputError


def plain_numbers(settings: Any) -> None:
    """Replace NumPy scalars in the fields of frozen settings by Python's numbers."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        # By name, as importing NumPy takes most of the time of a short command.
        if type(value).__module__ == "numpy" and hasattr(value, "item"):
            object.__setattr__(settings, each.name, value.item())


def require(condition: bool, name: str, value: object, demand: str) -> None:
    """Raise InputError if a condition on a setting does not hold."""
    if not condition:
        raise InputError(f"{name.replace('_', '-')} is {value!r}; it must be {demand}")


def require_whole(name: str, value: object, *, least: int, most: int = 2**63 - 1) -> None:
    """Raise InputError if a setting is not a whole number in a range."""
    in_range = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require(in_range, name, value, f"a whole number from {least} to {most}")


def require_finite(name: str, value: float, *, positive: bool = False) -> None:
    """Raise InputError if a setting is infinite, NaN, negative or, with `positive`, zero."""
    demand = "a positive number" if positive else "zero or a positive number"
    in_range = value > 0 if positive else value >= 0
    require(math.isfinite(value) and in_range, name, value, demand)


def require_choice(settings: object, name: str) -> None:
    """Raise InputError if a field does not hold one of the values of its `Literal` type."""
    kind: type = type(settings)
    choices = _choices(kind, name)
    value = getattr(settings, name)
    *others, last = choices
    require(value in choices, name, value, f"{', '.join(others)} or {last}")


@cache
def _choices(settings: type, name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(settings)[name])
