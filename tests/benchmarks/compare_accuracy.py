"""Compare errors and ranked lists on held-out ratings with those of other packages.

    python tests/benchmarks/compare_accuracy.py [ml-latest-small.zip] [--trials 20]

Ratings: the five splits that ``prepare --test-fraction 0.2 --seed 0`` to ``--seed 4`` make. What is
called tuned has settings that `tune` chose for each split by its training ratings. For Surprise SVD
and LensKit biased ALS they are chosen from a grid, by a fifth of the first split's training
ratings. Ids without training ratings are predicted by each one's own fallback.

Ranking: ratings as events, each user's latest tenth held out. Everyone's settings are chosen by
NDCG at 10 over folds of the training part: ours by `tune`, the peers' from a grid.

The peers are installed into ``.venv-peers``. Prints Markdown; writes JSON to ``build/benchmarks``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmark_data import BUILD
from machine import describe, environment, say
from peers_venv import HERE, install, python_of_peers

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.blocks import Block
from dask_als.core.side import USERS
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import Dataset
from dask_als.data.prepare import prepare
from dask_als.evaluation.baselines import baselines
from dask_als.evaluation.evaluate import evaluate
from dask_als.evaluation.ranking_metrics import measures
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings
from dask_als.settings.tuning import TuneSettings
from dask_als.training.train import train
from dask_als.tuning.folds import split_into_folds
from dask_als.tuning.search import tune

SEEDS = range(5)
K = 10
SVD_GRID = [
    {"n_factors": rank, "n_epochs": epochs, "reg_all": weight}
    for rank, epochs, weight in itertools.product((20, 100), (20, 50), (0.02, 0.05, 0.1))
]
LENSKIT_GRID = [
    {"embedding_size": rank, "regularization": weight, "epochs": 15}
    for rank, weight in itertools.product((16, 50, 100), (0.05, 0.1, 0.2, 0.4))
]
IMPLICIT_GRID = [
    {"factors": rank, "regularization": weight, "alpha": alpha, "iterations": 15}
    for rank, weight, alpha in itertools.product((16, 32, 64), (1.0, 10.0, 50.0), (1.0, 5.0, 20.0))
]
LENSKIT_RANKING_GRID = [
    {"embedding_size": rank, "regularization": weight, "weight": alpha, "epochs": 15}
    for rank, weight, alpha in itertools.product((16, 32, 64), (1.0, 10.0, 50.0), (1.0, 5.0, 20.0))
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="ml-latest-small.zip")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only", choices=["ratings", "ranking"])
    arguments = parser.parse_args()
    search = {"trials": arguments.trials, "folds": arguments.folds}
    results: dict[str, Any] = {"machine": describe(), "search": search}
    failures = install(["implicit", "lenskit", "scikit-surprise"])
    for package, failure in failures.items():
        say(f"{package}: {failure}")
    settings = ClusterSettings(workers=1, dashboard="127.0.0.1:0")
    with connected(settings) as client, tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(arguments.source, Path(folder), DaskExecutor(client), search)
        if arguments.only != "ranking":
            results["ratings"] = comparison.ratings()
            print(ratings_table(results["ratings"]), flush=True)
        if arguments.only != "ratings":
            results["ranking"] = comparison.ranking()
            print(ranking_table(results["ranking"]), flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "accuracy.json").write_text(json.dumps(results, indent=2) + "\n")


class Comparison:
    """Prepares splits of a source and trains all packages on them."""

    def __init__(
        self, source: str, folder: Path, executor: DaskExecutor, search: dict[str, int]
    ) -> None:
        self.source = source
        self.folder = folder
        self.executor = executor
        self.search = search

    def ratings(self) -> dict[str, Any]:
        """Return the held-out RMSEs of each package, one per split."""
        figures: dict[str, list[float]] = {}
        chosen: dict[str, Any] = {"tuned": []}
        for seed in SEEDS:
            say(f"ratings: split {seed}")
            path = str(self.folder / f"split-{seed}")
            dataset = prepare(
                self.source,
                path,
                self.executor,
                settings=PrepareSettings(test_fraction=0.2, seed=seed),
            )
            without = baselines(dataset, TrainSettings(), self.executor)
            tuned = tune(dataset, self.executor, TuneSettings(**self.search)).settings
            chosen["tuned"].append(tuned.to_json())
            ours = {
                "dask-als": TrainSettings(),
                "dask-als, tuned": tuned,
                "dask-als, gibbs": TrainSettings(method="gibbs"),
            }
            row = {"global mean": without.global_mean, "biases alone": without.biases}
            row |= {name: self.test_rmse(dataset, its) for name, its in ours.items()}
            row |= self.peers_rmse(dataset, chosen)
            for name, value in row.items():
                figures.setdefault(name, []).append(value)
                say(f"  {name}: {value:.4f}")
        return {"rmse": figures, "chosen": chosen}

    def test_rmse(self, dataset: Dataset, settings: TrainSettings) -> float:
        """Train and return the RMSE on held-out ratings."""
        model = str(self.folder / "model")
        manifest = train(dataset, model, settings, self.executor, overwrite=True)
        assert manifest.figures.test_rmse is not None
        return manifest.figures.test_rmse

    def peers_rmse(self, dataset: Dataset, chosen: dict[str, Any]) -> dict[str, float]:
        """Return the RMSE of the peers with defaults, and with the best settings of their grids."""
        rows, test = frames(dataset)
        figures = {}
        for package, name, grid in (
            ("surprise", "Surprise SVD", SVD_GRID),
            ("lenskit", "LensKit biased ALS", LENSKIT_GRID),
        ):
            if package not in chosen:
                values = self.predicted(package, *inner_split(dataset, self.executor), grid)
                chosen[package] = grid[int(np.argmin(values))]
            values = self.predicted(package, rows, test, [{}, chosen[package]])
            figures |= {name: values[0], f"{name}, tuned": values[1]}
        return figures

    def predicted(
        self, package: str, rows: pd.DataFrame, test: pd.DataFrame, settings: list[dict[str, Any]]
    ) -> list[float]:
        """Return a peer's RMSE with each of some settings."""
        rows.to_parquet(self.folder / "train.parquet")
        test.to_parquet(self.folder / "test.parquet")
        files = [str(self.folder / f"{name}.parquet") for name in ("train", "test", "out")]
        run("predicted.py", package, *files, json.dumps(settings))
        predicted = pd.read_parquet(files[2])
        return [float(np.sqrt(np.mean((test.rating - predicted[n]) ** 2))) for n in predicted]

    def ranking(self) -> dict[str, Any]:
        """Return each package's NDCG at 10 on each user's latest ratings, as events."""
        say("ranking")
        dataset = prepare(
            self.source,
            str(self.folder / "events"),
            self.executor,
            columns=Columns(rating=None),
            settings=PrepareSettings(test_fraction=0.1, split="latest", duplicates="sum"),
        )
        tuned = tune(
            dataset, self.executor, TuneSettings(feedback="implicit", **self.search)
        ).settings
        chosen: dict[str, Any] = {"dask-als, tuned": tuned.to_json()}
        figures: dict[str, float] = {}
        for name, settings in (
            ("dask-als", TrainSettings(feedback="implicit")),
            ("dask-als, tuned", tuned),
        ):
            model = str(self.folder / "model")
            train(dataset, model, settings, self.executor, overwrite=True)
            lists = evaluate(model, dataset, self.executor, EvaluateSettings(k=K)).ranking
            figures["most popular"] = lists["most popular"].ndcg
            figures[name] = lists["model"].ndcg
        rows, test = frames(dataset)
        inner = [
            inner_split(dataset, self.executor, fold, self.search["folds"])
            for fold in range(self.search["folds"])
        ]
        for package, name, grid in (
            ("implicit", "implicit ALS", IMPLICIT_GRID),
            ("lenskit", "LensKit implicit ALS", LENSKIT_RANKING_GRID),
        ):
            by_fold = [self.ranked(package, *split, grid) for split in inner]
            chosen[package] = grid[int(np.argmax(np.mean(by_fold, axis=0)))]
            values = self.ranked(package, rows, test, [{}, chosen[package]])
            figures |= {name: values[0], f"{name}, tuned": values[1]}
        for name, value in figures.items():
            say(f"  {name}: {value:.4f}")
        return {"ndcg": figures, "chosen": chosen}

    def ranked(
        self, package: str, rows: pd.DataFrame, test: pd.DataFrame, settings: list[dict[str, Any]]
    ) -> list[float]:
        """Return a peer's mean NDCG with each of some settings."""
        rows[["user", "item"]].to_parquet(self.folder / "train.parquet")
        out = self.folder / "lists.npy"
        files = [str(self.folder / "train.parquet"), str(out)]
        run("ranked.py", package, *files, str(K), json.dumps(settings))
        test = test.sort_values(["user", "item"])
        users, counts = np.unique(test.user, return_counts=True)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return [
            float(measures(lists[users], indptr, test.item.to_numpy())["ndcg"].mean())
            for lists in np.load(out)
        ]


def frames(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and held-out ratings as tables of user, item, rating."""
    parts = list(enumerate(dataset.users.partitions))
    train_blocks = [read_block(dataset.path, USERS, number, part) for number, part in parts]
    test_blocks = [
        read_test_block(dataset.path, number, part) for number, part in parts if part.test_ratings
    ]
    return frame(train_blocks), frame(test_blocks)


def inner_split(
    dataset: Dataset, executor: DaskExecutor, fold: int = 0, folds: int = 5
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training ratings without a fold, and those of the fold."""
    its = split_into_folds(dataset, executor, folds=folds, seed=0)[fold]
    held_out = executor.gather(list(its.held_out.values()))
    return frame(executor.gather(its.blocks[USERS])), frame(held_out)


def frame(blocks: list[Block]) -> pd.DataFrame:
    """Return blocks of users as a table."""
    return pd.concat(
        pd.DataFrame({"user": b.row_of_rating, "item": b.indices, "rating": b.ratings})
        for b in blocks
    )


def run(script: str, *arguments: str) -> None:
    """Run a peer's script in the peers' environment."""
    command = [str(python_of_peers()), str(HERE / "peers" / script), *arguments]
    done = subprocess.run(command, env=environment(), text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{script} {arguments[0]}: {done.stderr.strip()[-500:]}")


def ratings_table(results: dict[str, Any]) -> str:
    """Return the RMSEs as Markdown, the best first."""
    lines = ["| predicts | held-out RMSE | by split |", "|---|---|---|"]
    means = {name: statistics.fmean(values) for name, values in results["rmse"].items()}
    for name in sorted(means, key=means.__getitem__):
        splits = " ".join(f"{value:.4f}" for value in results["rmse"][name])
        lines.append(f"| {name} | {means[name]:.4f} | {splits} |")
    return "\n".join(lines)


def ranking_table(results: dict[str, Any]) -> str:
    """Return the NDCGs as Markdown, the best first."""
    lines = ["| ranks | NDCG@10 |", "|---|---|"]
    figures = results["ndcg"]
    lines += [
        f"| {name} | {figures[name]:.4f} |" for name in sorted(figures, key=figures.get)[::-1]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
