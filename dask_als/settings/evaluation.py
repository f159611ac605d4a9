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


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """A vector index of the items of a model.

    Attributes
    ----------
    k : int
        Length of the lists that recall is measured with.
    measured_users : int
        Number of random users that recall is measured with.
    connectivity : int
        Links of a vector in the graph of the index (HNSW's M). More links need more memory.
    expansion : int
        Candidates that building and searching keep (HNSW's ef). More candidates raise the recall
        and take longer.
    seed : int
        Seed of the choice of users.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    k: int = 10
    measured_users: int = 1000
    connectivity: int = 32
    expansion: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("k", self.k, least=1)
        require_whole("measured_users", self.measured_users, least=1)
        require_whole("connectivity", self.connectivity, least=2)
        require_whole("expansion", self.expansion, least=1)
        require_whole("seed", self.seed, least=0)
