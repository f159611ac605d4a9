"""Plans, searches and evaluations as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd
from rich.table import Table

from dask_als.cli.console import table_of
from dask_als.evaluation.calibration import Calibration
from dask_als.evaluation.results import Errors, Evaluation, Ranking
from dask_als.planning.memory import in_words
from dask_als.planning.plan import Plan
from dask_als.tuning.search import Tuning


def described_tuning(tuning: Tuning, n_rows: int = 10) -> pd.DataFrame:
    """Return the best trials of a search as a table, with the settings that vary between them."""
    ended = [trial for trial in tuning.trials if trial.value is not None and not trial.pruned]
    ended.sort(key=lambda trial: trial.value or 0.0, reverse=tuning.measure == "ndcg")
    rows = [{**trial.settings.to_json(), tuning.measure: trial.value} for trial in ended]
    frame = pd.DataFrame(rows, index=[trial.number for trial in ended]).dropna(axis=1, how="all")
    varies = [name for name in frame.columns if frame[name].nunique(dropna=False) > 1]
    shown = [*(name for name in varies if name != tuning.measure), tuning.measure]
    short = {name: name.replace("regularization", "reg.").replace("_", " ") for name in shown}
    return frame[shown].head(n_rows).rename(columns=short).rename_axis("trial").reset_index()


def described_plan(plan: Plan, title: str) -> Table:
    """Return a plan as a table to print."""
    memory, shape = plan.memory, plan.shape
    have = " and ".join(f"{count} of {side}" for side, count in plan.partitions.items())
    rows = {
        "process": in_words(memory.process),
        "blocks of ratings": in_words(memory.blocks),
        "factors of both sides": in_words(memory.states),
        f"temporaries ({memory.phase})": in_words(memory.temporaries),
        "peak of a worker": in_words(memory.peak),
        "memory limit": f"{in_words(shape.memory)}{'' if plan.fits else ': too little'}"
        if shape.memory
        else "none",
        "model on disk": in_words(plan.disk.model),
        "checkpoints and samples": in_words(plan.disk.checkpoints),
        "partitions": f"{have}; best {plan.best_partitions}",
        "tasks per epoch": f"{plan.tasks_per_epoch:,}",
        "seconds per epoch": f"{plan.epoch_seconds:.3g}",
        "seconds in total": f"{plan.training_seconds:.3g}",
    }
    return table_of(pd.DataFrame({"resource": list(rows), "estimate": list(rows.values())}), title)


def described_evaluation(evaluation: Evaluation) -> list[tuple[str, pd.DataFrame]]:
    """Return an evaluation as tables with titles: errors, ranked lists, calibration."""
    n_fallback = evaluation.n_cold - evaluation.n_described
    ways = [
        (evaluation.n_described, "of them predicted from attributes"),
        (n_fallback, "of them scored by the fallback"),
    ]
    cold = "".join(f", {number:,} {way}" for number, way in ways if number)
    cold += (
        f": {evaluation.cold_users:,} users and {evaluation.cold_items:,} items have no training "
        "ratings"
    )
    lists = (
        f"Ranked lists of {evaluation.settings.k} items for {evaluation.n_lists:,} users; a "
        f"relevant item has {evaluation.held_out_popularity:,.0f} training ratings on average"
    )
    tables = [
        (
            f"Errors on {evaluation.n_test:,} held-out ratings{cold if evaluation.n_cold else ''}",
            _figures_by_name(evaluation.errors),
        ),
        (lists, _figures_by_name(evaluation.ranking)),
    ]
    if evaluation.calibration is not None:
        title = (
            "Share of held-out ratings inside their predictive intervals; the mean standard "
            f"deviation is {evaluation.calibration.deviation:.3f}"
        )
        tables.append((title, _intervals(evaluation.calibration)))
    return tables


def _intervals(calibration: Calibration) -> pd.DataFrame:
    columns = {f"{each.level:.0%}": [each.coverage] for each in calibration.intervals}
    return pd.DataFrame(columns, index=["model"]).rename_axis("").reset_index()


def _figures_by_name(figures: Mapping[str, Errors | Ranking]) -> pd.DataFrame:
    columns = {name: asdict(measured) for name, measured in figures.items()}
    if all(values.get("rmse_described", 0) is None for values in columns.values()):
        for values in columns.values():
            values.pop("rmse_described", None)
    return pd.DataFrame(columns).rename_axis("").reset_index()
