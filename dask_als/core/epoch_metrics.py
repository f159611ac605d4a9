"""What an epoch came to: one line of history.jsonl."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EpochFigures:
    """The figures of one epoch.

    Attributes
    ----------
    epoch : int
        From 1.
    objective : float
        The penalized log joint; it rises.
    train_rmse : float
    test_rmse : float or None
        None without held-out ratings.
    seconds : float
        Since the figures of the epoch before; short epochs that end together took equal shares.
    """

    epoch: int
    objective: float
    train_rmse: float
    test_rmse: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return asdict(self)
