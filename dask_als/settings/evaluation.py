"""Settings of evaluation and recommendations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dask_als.core.side import SideName
from dask_als.settings.checks import plain_numbers, require, require_choice, require_whole


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How a model is evaluated.

    Attributes
    ----------
    k : int
        Length of the ranked lists.
    relevant_from : float or None
        The least held-out rating that makes an item relevant to a user; None means any rating.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    k: int = 10
    relevant_from: float | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        require_whole("k", self.k, least=1)
        if self.relevant_from is not None:
            is_finite = math.isfinite(self.relevant_from)
            require(is_finite, "relevant_from", self.relevant_from, "a finite number")


@dataclass(frozen=True, kw_only=True)
class RecommendSettings:
    """Which recommendations are made.

    Attributes
    ----------
    side : {"users", "items"}
        The side that gets recommendations of the other side.
    k : int
        The maximum number of recommendations per row.
    seen : bool
        Whether to include pairs that have a training rating.
    rows_at_once : int
        The maximum number of rows per task; a task's memory grows with it.
    std : bool
        Whether to add the standard deviation of each rating; needs a model of samples.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    side: SideName = "users"
    k: int = 10
    seen: bool = False
    rows_at_once: int = 65_536
    std: bool = False

    def __post_init__(self) -> None:
        plain_numbers(self)
        require_choice(self, "side")
        require_whole("k", self.k, least=1)
        require_whole("rows_at_once", self.rows_at_once, least=1)
