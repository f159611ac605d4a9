"""The figures of trainings as Prometheus metrics, beside those of Dask's scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dask_als.monitor.run_state import RunState

_PHASES = ("solving", "waiting", "overhead")


class RunMetrics(Collector):
    """Collects the metrics of all current trainings.

    All schedulers of a process share one registry, so there is one collector per process.
    """

    def __init__(self) -> None:
        self._runs: dict[str, RunState] = {}

    def show(self, run: str, state: RunState) -> None:
        """Show a training under a unique label."""
        if not self._runs:
            REGISTRY.register(self)
        self._runs[run] = state

    def hide(self, run: str) -> None:
        """Stop showing a training."""
        if self._runs.pop(run, None) is not None and not self._runs:
            REGISTRY.unregister(self)

    def describe(self) -> Iterable[Metric]:
        """Announce nothing in advance, as the metrics depend on the trainings."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all trainings."""
        now = time.time()
        info = InfoMetricFamily("dask_als_run", "Model and dataset of a training.", labels=["run"])
        gauges = {
            name: GaugeMetricFamily(f"dask_als_{name}", text, labels=["run", *labels])
            for name, text, labels in (
                ("epochs_planned", "Maximum number of epochs.", []),
                ("epochs_done", "Completed epochs.", []),
                ("objective", "Penalized log joint after the last epoch; it rises.", []),
                ("rmse", "Root mean squared error after the last epoch.", ["split"]),
                ("epoch_duration_seconds", "Duration of the last epoch.", []),
                ("remaining_seconds", "Estimated time of the remaining epochs.", []),
                ("ratings", "Ratings of the dataset.", ["split"]),
                (
                    "slowest_partition_seconds",
                    "Slowest partition in the last half-epoch.",
                    ["side"],
                ),
                ("mean_partition_seconds", "Mean partition, last half-epoch.", ["side"]),
            )
        }
        halves = CounterMetricFamily(
            "dask_als_half_epochs", "Completed half-epochs.", labels=["run", "side"]
        )
        seconds = CounterMetricFamily(
            "dask_als_half_epoch_seconds",
            "Average time of a thread in half-epochs, by phase.",
            labels=["run", "side", "phase"],
        )
        ratings = CounterMetricFamily(
            "dask_als_solved_ratings", "Ratings solved in half-epochs.", labels=["run"]
        )
        for run, state in self._runs.items():
            info.add_metric([run], _described(state))
            for name, labels, value in _values(state, now):
                gauges[name].add_metric([run, *labels], value)
            for side, total in state.totals.items():
                halves.add_metric([run, side], total.half_epochs)
                for phase in _PHASES:
                    seconds.add_metric([run, side, phase], getattr(total, phase))
            ended = sum(total.half_epochs for total in state.totals.values())
            ratings.add_metric([run], ended * state.info.n_ratings)
        yield info
        yield from gauges.values()
        yield from (halves, seconds, ratings)


def _described(state: RunState) -> dict[str, str]:
    settings = state.info.settings
    return {
        "model": PurePosixPath(state.info.model).name,
        "dataset": PurePosixPath(state.info.dataset).name,
        "rank": str(settings["rank"]),
        "dtype": str(settings["dtype"]),
    }


def _values(state: RunState, now: float) -> Iterator[tuple[str, list[str], Any]]:
    yield "epochs_planned", [], state.info.epochs
    yield "epochs_done", [], state.epoch
    yield "ratings", ["train"], state.info.n_ratings
    yield "ratings", ["test"], state.info.n_test
    if state.history:
        last = state.history[-1]
        yield "objective", [], last.objective
        yield "rmse", ["train"], last.train_rmse
        if last.test_rmse is not None:
            yield "rmse", ["test"], last.test_rmse
        yield "epoch_duration_seconds", [], last.seconds
        yield "remaining_seconds", [], state.seconds_left(now)
    for half in state.last_half_epochs:
        yield "slowest_partition_seconds", [half.side], half.slowest
        yield "mean_partition_seconds", [half.side], half.mean


METRICS = RunMetrics()
