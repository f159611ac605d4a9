"""The records for implicit feedback: files of two published protocols, and what is measured there.

Settings are chosen on interactions that are held out from the training files. The test files are
read once, for the model with the chosen settings.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from machine import say

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.evaluation.evaluate import evaluate
from dask_als.model.model import ALSModel
from dask_als.settings.data import Columns
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

Pairs = np.ndarray
"""Users and items of interactions, shape (n, 2)."""

Measured = dict[str, float]

COLUMNS = Columns(user="user", item="item", rating=None)
SEED = 0
N_NEGATIVES = 99


def ials(*, rank: int, weight: float, unobserved: float, epochs: int) -> TrainSettings:
    """Return settings with the meaning that they have in Rendle et al. 2021.

    Their loss is Σ (1 - p)² over interactions + unobserved · Σ p² over all pairs + weight ·
    Σ (n + unobserved · N) |row|², n the row's interactions and N the rows of the other side. Ours
    gives all pairs a squared error of weight 1, those with an interaction 1 + confidence, and has
    the target 1: the same model but for a factor of all predictions.
    """
    return TrainSettings(
        feedback="implicit",
        rank=rank,
        epochs=epochs,
        confidence=1 / unobserved,
        frequency_exponent=1.0,
        factor_regularization=(1 + unobserved) * weight,
    )


def grid(
    ranks: list[int], weights: list[float], unobserved: list[float], epochs: int
) -> list[TrainSettings]:
    """Return settings of all combinations."""
    return [
        ials(rank=rank, weight=weight, unobserved=part, epochs=epochs)
        for rank, part, weight in itertools.product(ranks, unobserved, weights)
    ]


def tuned_and_measured(
    rows: Pairs,
    inner: tuple[Pairs, Pairs],
    test: Pairs,
    settings: list[TrainSettings],
    measure: Callable[[TrainSettings, Pairs, Pairs], Measured],
) -> dict[str, Any]:
    """Choose settings by the inner split of the training interactions, then measure them once."""
    found = []
    for one in settings:
        found.append(measure(one, *inner))
        shown = f"rank {one.rank}, confidence {one.confidence:.4g}"
        say(f"  {shown}, weight {one.factor_regularization:.4g}: {found[-1]}")
    chosen = settings[int(np.argmax([next(iter(figures.values())) for figures in found]))]
    return {
        "figures": measure(chosen, rows, test),
        "settings": chosen.to_json(),
        "tuned on": found,
    }


def trained(settings: TrainSettings, rows: Pairs, folder: str, test: Pairs | None = None) -> Any:
    """Train on interactions; return the dataset and the path of the model."""
    sources = {"train": rows} if test is None else {"train": rows, "test": test}
    for name, pairs in sources.items():
        table = pa.table({"user": pairs[:, 0], "item": pairs[:, 1]})
        pq.write_table(table, f"{folder}/{name}.parquet")
    dataset = prepare(
        f"{folder}/train.parquet",
        f"{folder}/dataset",
        SerialExecutor(),
        columns=COLUMNS,
        test=None if test is None else f"{folder}/test.parquet",
        overwrite=True,
    )
    model = f"{folder}/model"
    train(dataset, model, settings, SerialExecutor(), overwrite=True)
    return dataset, model


# The split of LightGCN, https://github.com/gusye1234/LightGCN-PyTorch, data/gowalla


def read_lists(path: Path) -> Pairs:
    """Read lines of a user and its items."""
    lists = [np.array(line.split(), dtype=np.int64) for line in path.read_text().splitlines()]
    items = np.concatenate([each[1:] for each in lists])
    users = np.repeat([each[0] for each in lists], [len(each) - 1 for each in lists])
    return np.column_stack([users, items])


def held_out_at_random(rows: Pairs, fraction: float = 0.1) -> tuple[Pairs, Pairs]:
    """Split interactions at random."""
    is_held_out = np.random.default_rng(SEED).random(len(rows)) < fraction
    return rows[~is_held_out], rows[is_held_out]


def recall_and_ndcg(settings: TrainSettings, rows: Pairs, test: Pairs, k: int = 20) -> Measured:
    """Return the means over users of recall and NDCG of lists without training items."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, model = trained(settings, rows, folder, test)
        lists = evaluate(model, dataset, SerialExecutor(), EvaluateSettings(k=k)).ranking["model"]
    return {f"Recall@{k}": lists.recall, f"NDCG@{k}": lists.ndcg}


def gowalla(data: Path, settings: list[TrainSettings]) -> dict[str, Any]:
    """Measure on train.txt and test.txt of a folder."""
    rows, test = read_lists(data / "train.txt"), read_lists(data / "test.txt")
    return tuned_and_measured(rows, held_out_at_random(rows), test, settings, recall_and_ndcg)


# The protocol of NCF, https://github.com/hexiangnan/neural_collaborative_filtering, Data


def read_ratings(path: Path) -> Pairs:
    """Read users and items of tab-separated lines; a user's are in the order of time."""
    return pd.read_csv(path, sep="\t", header=None, usecols=[0, 1]).to_numpy(np.int64)


def read_candidates(data: Path, name: str) -> np.ndarray:
    """Read the candidates of each user; shape (n_users, 101): the user, its test item, others."""
    lines = (data / f"{name}.test.negative").read_text().splitlines()
    tests = read_ratings(data / f"{name}.test.rating")
    others = [line.rstrip("\t").split("\t")[1:] for line in lines]
    return np.column_stack([tests, np.array(others, dtype=np.int64)])


def last_held_out(rows: Pairs, n_items: int) -> tuple[Pairs, np.ndarray]:
    """Hold out each user's last interaction; return the others, and candidates with negatives."""
    users, last = np.unique(rows[::-1, 0], return_index=True)
    last = len(rows) - 1 - last
    rng = np.random.default_rng(SEED)
    candidates = [
        [user, item, *_not_among(set(known), n_items, rng)]
        for user, item, known in zip(
            users,
            rows[last, 1],
            pd.Series(rows[:, 1]).groupby(rows[:, 0]).agg(list).loc[users],
            strict=True,
        )
    ]
    return np.delete(rows, last, axis=0), np.array(candidates)


def _not_among(known: set[int], n_items: int, rng: np.random.Generator) -> list[int]:
    drawn = (item for item in rng.permutation(n_items).tolist() if item not in known)
    return list(itertools.islice(drawn, N_NEGATIVES))


def hits_and_ndcg(
    settings: TrainSettings, rows: Pairs, candidates: np.ndarray, k: int = 10
) -> Measured:
    """Return hit rate and NDCG of the first candidate of each user among all of its candidates."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, path = trained(settings, rows, folder)
        model = ALSModel.load(path, dataset.path)
        users, items = candidates[:, 0], candidates[:, 1:]
        asked = np.repeat(users, items.shape[1]), items.ravel()
        scores = model.predict(*asked, unknown="ignore").reshape(items.shape)
    # A tie counts against us.
    places = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    gains = np.where(places < k, 1 / np.log2(places + 2), 0.0)
    return {f"HR@{k}": float((places < k).mean()), f"NDCG@{k}": float(gains.mean())}


def ncf(data: Path, settings: list[TrainSettings], name: str = "ml-1m") -> dict[str, Any]:
    """Measure on the files of NCF in a folder."""
    rows, test = read_ratings(data / f"{name}.train.rating"), read_candidates(data, name)
    n_items = 1 + int(max(rows[:, 1].max(), test[:, 1:].max()))
    return tuned_and_measured(rows, last_held_out(rows, n_items), test, settings, hits_and_ndcg)
