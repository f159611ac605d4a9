"""A program of a user: `mypy --strict` checks it against the installed wheel, and a test runs it.

`assert_type` fails where a type of the public interface is less precise than it says here.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dask_als import (
    ALS,
    ALSModel,
    Columns,
    DaskALSError,
    InputError,
    JobError,
    PrepareSettings,
    StopSettings,
    TrainSettings,
    UnknownIdWarning,
)
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.dataset import Dataset, open_dataset
from dask_als.data.prepare import prepare
from dask_als.evaluation.evaluate import evaluate
from dask_als.evaluation.results import Evaluation
from dask_als.model.folded_in import FoldedIn
from dask_als.model.manifest import ModelManifest
from dask_als.model.recommend import Recommended, recommend
from dask_als.settings.evaluation import EvaluateSettings, RecommendSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.callbacks import TrainedEpoch
from dask_als.training.train import train


def ratings_of(n_users: int, n_items: int) -> pd.DataFrame:
    """Return ratings of most items by each user."""
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(n_users) for item in range(n_items)]
    users, items = np.array(pairs).T
    stars = rng.integers(1, 6, len(pairs)).astype(float)
    table = pd.DataFrame({"reader": users, "book": items, "stars": stars})
    return table[rng.random(len(pairs)) < 0.7]


def fit(ratings: pd.DataFrame, columns: Columns) -> ALSModel:
    """Train in one call."""
    seen: list[EpochFigures] = []

    def stop_early(epoch: TrainedEpoch) -> bool:
        assert_type(epoch.figures, EpochFigures)
        assert_type(epoch.history, tuple[EpochFigures, ...])
        return epoch.figures.train_rmse < 0.1

    als = ALS(rank=2, epochs=3, seed=1, dtype="float32", client=None, scratch=None)
    assert_type(als.rank, int)
    assert_type(als.residual_precision, float)
    model = als.fit(
        ratings,
        columns=columns,
        prepare_settings=PrepareSettings(test_fraction=0.2, split="random"),
        stopping=StopSettings(flat=1e-9, patience=2),
        on_epoch=seen.append,
        callbacks=[stop_early],
    )
    assert_type(model, ALSModel)
    for figures in seen:
        assert_type(figures.epoch, int)
        assert_type(figures.objective, float)
        assert_type(figures.test_rmse, float | None)
    return model


def use(model: ALSModel, folder: str) -> None:
    """Use a model."""
    assert_type(model.settings, TrainSettings)
    assert_type(model.history, list[EpochFigures])
    assert_type(model.dataset, Dataset | None)
    assert_type(model.manifest, ModelManifest)
    assert_type(model.predict(3, 4), float)
    assert_type(model.predict([3, 4], [4, 5]), NDArray[np.float64])
    assert_type(model.predict(np.array([3, 4]), pd.Series([4, 5])), NDArray[np.float64])
    pairs = pd.DataFrame({"reader": [3, 4], "book": [4, 5]})
    columns = Columns(user="reader", item="book", rating=None)
    assert_type(model.predict_frame(pairs, columns=columns, clip=True), pd.DataFrame)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownIdWarning)
        assert_type(model.predict(99, 4, unknown="ignore"), float)
    assert_type(model.recommend(user=3, k=2, seen=True), pd.DataFrame)
    assert_type(model.recommend_to(ITEMS, 4, k=2, seen=True, exclude=[1]), pd.DataFrame)
    assert_type(model.rated_items(3), pd.DataFrame)
    assert_type(model.similar_items(4, k=2, measure="inner-product"), pd.DataFrame)
    assert_type(model.similar_users(3, k=2, least_ratings=1), pd.DataFrame)
    assert_type(model.explain(3, 4), pd.DataFrame)
    assert_type(model.name_of(4), str)
    folded = model.fold_in({4: 5.0, 5: 1.0})
    assert_type(folded, FoldedIn)
    assert_type(folded.bias, float)
    assert_type(folded.recommend(k=2), pd.DataFrame)
    assert_type(model.fold_in_item({3: 5.0}), FoldedIn)
    assert_type(model.save(f"{folder}/saved"), None)
    assert_type(ALSModel.load(f"{folder}/saved"), ALSModel)


def step_by_step(ratings: pd.DataFrame, columns: Columns, folder: str) -> None:
    """Prepare, train, evaluate and recommend as the commands do."""
    ratings.to_parquet(f"{folder}/ratings.parquet")
    executor = SerialExecutor()
    dataset = prepare(
        f"{folder}/ratings.parquet",
        f"{folder}/dataset",
        executor,
        columns=columns,
        settings=PrepareSettings(test_fraction=0.2, partitions=2),
    )
    assert_type(dataset, Dataset)
    assert_type(dataset.n_ratings, int)
    assert_type(open_dataset(dataset.path), Dataset)
    manifest = train(
        dataset,
        f"{folder}/model",
        TrainSettings(rank=2, epochs=3, first="items"),
        executor,
        checkpoints=CheckpointSettings(directory=f"{folder}/checkpoints", every=2),
    )
    assert_type(manifest, ModelManifest)
    assert_type(manifest.global_mean, float)
    evaluation = evaluate(f"{folder}/model", dataset, executor, EvaluateSettings(k=3))
    assert_type(evaluation, Evaluation)
    settings = RecommendSettings(k=2, side=USERS.name)
    written = recommend(f"{folder}/model", dataset, f"{folder}/best", executor, settings)
    assert_type(written, Recommended)


def errors() -> Sequence[str]:
    """Return the messages of mistakes."""
    try:
        TrainSettings(rank=0)
    except InputError as error:
        assert_type(error.exit_code, int)
        return [str(error)]
    except (JobError, DaskALSError):
        raise
    return []


def main(folder: str) -> None:
    """Run all parts in a directory."""
    columns = Columns(user="reader", item="book", rating="stars", time=None)
    ratings = ratings_of(12, 8)
    use(fit(ratings, columns), folder)
    step_by_step(ratings, columns, folder)
    print(*errors())


if __name__ == "__main__":
    main(sys.argv[1])
