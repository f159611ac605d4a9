"""Measure the records that docs/accuracy.md lists: a row of its tables for each data set.

    python tests/benchmarks/records.py                     # all whose data are there
    python tests/benchmarks/records.py ml-100k             # one
    python tests/benchmarks/records.py gowalla --data DIR

Data are read from ``build/benchmarks/data``, or the path that --data names:

- ``ml-100k.zip``, ``ml-1m.zip``, ``ml-latest-small.zip``, ``goodbooks.zip``: `dask-als fetch`
- ``gowalla``: a folder with train.txt and test.txt of LightGCN
- ``ncf``: a folder with ml-1m.train.rating, ml-1m.test.rating and ml-1m.test.negative of NCF

Ratings: RMSE on held-out ratings, not clipped; unknown ids by each one's own fallback. Nothing of
ours is tuned. cmfrec has the best of `CMFREC_GRID` by the test ratings themselves: a bar that it
could not reach without them. Implicit feedback: ours is tuned by interactions that are held out
from the training files. Prints Markdown, and writes JSON to ``build/benchmarks/records``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmark_data import BUILD
from compare_accuracy import frames, run
from machine import describe, say
from peers_venv import install
from records_implicit import gowalla, grid, ncf

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import Dataset
from dask_als.data.prepare import prepare
from dask_als.evaluation.evaluate import evaluate
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

DATA = BUILD / "data"
SETTINGS = {
    "train --implicit-attributes auto": TrainSettings(method="gibbs", implicit_attributes="auto"),
    "train": TrainSettings(method="gibbs"),
    "train --method als": TrainSettings(),
}
CMFREC_GRID = [
    {"k": rank, "lambda_": weight, "niter": 15}
    for rank, weight in itertools.product((20, 50), (5.0, 10.0, 15.0, 20.0))
]
PEER = "cmfrec, best of 8 by the test ratings"


@dataclass(frozen=True)
class Ratings:
    """A data set of ratings, and its splits.

    Attributes
    ----------
    file : str
        In `DATA`.
    test_fraction : float
        Of random splits.
    seeds : range
        One for each random split.
    folds : tuple of str
        Names of files in the archive, without suffixes .base and .test, instead of random splits.
    """

    file: str
    test_fraction: float = 0.0
    seeds: range = range(5)
    folds: tuple[str, ...] = ()

    def splits(self, source: Path, folder: Path) -> Iterator[Dataset]:
        """Prepare one split after the other."""
        executor, path = SerialExecutor(), str(folder / "dataset")
        for fold in self.folds:
            parts = [unpacked(source, f"{fold}.{part}", folder) for part in ("base", "test")]
            yield prepare(parts[0], path, executor, test=parts[1], overwrite=True)
        for seed in () if self.folds else self.seeds:
            settings = PrepareSettings(test_fraction=self.test_fraction, seed=seed)
            yield prepare(str(source), path, executor, settings=settings, overwrite=True)


RATINGS = {
    "ml-100k": Ratings("ml-100k.zip", folds=("u1", "u2", "u3", "u4", "u5")),
    "ml-1m": Ratings("ml-1m.zip", test_fraction=0.1),
    "ml-latest-small": Ratings("ml-latest-small.zip", test_fraction=0.2),
    "goodbooks": Ratings("goodbooks.zip", test_fraction=0.1, seeds=range(1)),
}
IMPLICIT = {
    "gowalla": (gowalla, grid([256], [0.003, 0.006], [0.01, 0.02], epochs=16)),
    "ncf": (ncf, grid([192], [0.005, 0.007, 0.01], [0.1, 0.3, 1.0], epochs=12)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", nargs="?", choices=[*RATINGS, *IMPLICIT])
    parser.add_argument("--data", type=Path, help="the archive or the folder of this row")
    parser.add_argument("--without-peers", action="store_true")
    arguments = parser.parse_args()
    if arguments.data is not None and arguments.row is None:
        parser.error("--data is for one row: name it")
    for row in [arguments.row] if arguments.row else [*RATINGS, *IMPLICIT]:
        path = arguments.data or DATA / (RATINGS[row].file if row in RATINGS else row)
        if not path.exists():
            say(f"{row}: left out, as {path} is not there")
            continue
        say(row)
        if row in RATINGS:
            results = ratings_row(RATINGS[row], path, with_peers=not arguments.without_peers)
            print(ratings_table(row, results), flush=True)
        else:
            measure, settings = IMPLICIT[row]
            results = measure(path, settings)
            print(implicit_table(row, results), flush=True)
        folder = BUILD / "records"
        folder.mkdir(parents=True, exist_ok=True)
        content = {"row": row, "machine": describe(), **results}
        (folder / f"{row}.json").write_text(json.dumps(content, indent=2) + "\n")


def ratings_row(data: Ratings, source: Path, *, with_peers: bool) -> dict[str, Any]:
    """Return the RMSE of ours, and of cmfrec, on each split."""
    figures: dict[str, list[float]] = {}
    of_peer: list[list[float]] = []
    failures = install(["cmfrec"]) if with_peers else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dataset in data.splits(source, folder):
            for command, settings in SETTINGS.items():
                model = str(folder / "model")
                train(dataset, model, settings, SerialExecutor(), overwrite=True)
                error = error_of(model, dataset)
                figures.setdefault(command, []).append(error)
                say(f"  {command}: {error:.4f}")
            if with_peers and not failures:
                of_peer.append(cmfrec_errors(dataset, folder))
                say(f"  cmfrec: {', '.join(f'{error:.4f}' for error in of_peer[-1])}")
    chosen = None
    if of_peer:
        best = int(np.argmin(np.mean(of_peer, axis=0)))
        figures[PEER], chosen = [errors[best] for errors in of_peer], CMFREC_GRID[best]
    return {"rmse": figures, "cmfrec": chosen, "failures": failures}


def error_of(model: str, dataset: Dataset) -> float:
    """Return the RMSE of a model as it was written, on the held-out ratings."""
    return evaluate(model, dataset, SerialExecutor(), EvaluateSettings()).errors["model"].rmse


def cmfrec_errors(dataset: Dataset, folder: Path) -> list[float]:
    """Return the RMSE of cmfrec with each setting of its grid."""
    rows, test = frames(dataset)
    files = [str(folder / f"{name}.parquet") for name in ("rows", "asked", "predicted")]
    rows.to_parquet(files[0])
    test.to_parquet(files[1])
    run("predicted.py", "cmfrec", *files, json.dumps(CMFREC_GRID))
    predicted = pd.read_parquet(files[2])
    return [float(np.sqrt(np.mean((test.rating - predicted[n]) ** 2))) for n in predicted]


def unpacked(archive: Path, name: str, folder: Path) -> str:
    """Return the path of a file of a folder; a file of a zip archive is written to `folder`."""
    if archive.is_dir():
        return str(archive / name)
    with zipfile.ZipFile(archive) as opened:
        member = next(each for each in opened.namelist() if each.endswith(f"/{name}"))
        (folder / name).write_bytes(opened.read(member))
    return str(folder / name)


def ratings_table(row: str, results: dict[str, Any]) -> str:
    """Return RMSEs as Markdown, the best first."""
    lines = [f"| {row} | held-out RMSE | by split |", "|---|---:|---|"]
    means = {name: statistics.fmean(values) for name, values in results["rmse"].items()}
    for name in sorted(means, key=means.__getitem__):
        splits = " ".join(f"{value:.4f}" for value in results["rmse"][name])
        lines.append(f"| {name} | {means[name]:.4f} | {splits} |")
    return "\n".join(lines)


def implicit_table(row: str, results: dict[str, Any]) -> str:
    """Return measures, and the settings that were chosen, as Markdown."""
    figures, chosen = results["figures"], results["settings"]
    names = ("rank", "epochs", "confidence", "factor_regularization", "frequency_exponent")
    settings = ", ".join(f"{name} {chosen[name]:.4g}" for name in names)
    values = " | ".join(f"{value:.4f}" for value in figures.values())
    return "\n".join(
        [
            f"| {row} | {' | '.join(figures)} | settings |",
            f"|---|{'---:|' * len(figures)}---|",
            f"| dask_als | {values} | {settings} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
