"""The figures of an epoch, a line of history.jsonl."""

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
        The penalized log joint density; training maximizes it.
    train_rmse : float
    test_rmse : float or None
        None if there are no held-out ratings.
    seconds : float
        Time since the figures of the previous epoch. Short epochs are submitted together; their
        time is divided equally.
    """

    epoch: int
    objective: float
    train_rmse: float
    test_rmse: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return asdict(self)
