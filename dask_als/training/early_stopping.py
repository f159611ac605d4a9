"""Early stopping. It reads only the history, so a resumed run stops at the same epoch."""

from __future__ import annotations

from collections.abc import Sequence

from dask_als.core.epoch_figures import EpochFigures
from dask_als.settings.training import StopSettings


def reason_to_stop(history: Sequence[EpochFigures], settings: StopSettings) -> str | None:
    """Return why training stops after the last epoch of a history, or None if it continues."""
    if settings.flat is not None and _is_flat(history, settings.flat):
        return f"the objective rose by less than {settings.flat:g} of itself"
    if settings.patience is not None and history:
        best = best_epoch(history)
        if history[-1].epoch - best.epoch >= settings.patience:
            return f"no better held-out RMSE since epoch {best.epoch}"
    return None


def best_epoch(history: Sequence[EpochFigures]) -> EpochFigures:
    """Return the epoch with the lowest held-out RMSE; of equals, the first."""
    return min(
        (figures for figures in history if figures.test_rmse is not None),
        key=lambda figures: (figures.test_rmse, figures.epoch),
    )


def _is_flat(history: Sequence[EpochFigures], tolerance: float) -> bool:
    if len(history) < 2:
        return False
    before, now = history[-2].objective, history[-1].objective
    return now - before < tolerance * abs(now)
