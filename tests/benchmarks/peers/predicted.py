"""Predict held-out ratings with Surprise, LensKit or cmfrec, for several settings.

    python predicted.py surprise|lenskit|cmfrec TRAIN TEST OUT '[{"n_factors": 100}, ...]'

TRAIN and TEST are Parquet files with user, item, rating. OUT has a column of predictions for each
of the settings, in the order of TEST. What a package does not know it predicts by its own fallback:
mean and known biases.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pandas as pd


def main() -> None:
    package, train, test, out, settings = sys.argv[1:]
    predict = {"surprise": with_surprise, "lenskit": with_lenskit, "cmfrec": with_cmfrec}[package]
    rows, asked = pd.read_parquet(train), pd.read_parquet(test)
    columns = {
        str(number): predict(rows, asked, one) for number, one in enumerate(json.loads(settings))
    }
    pd.DataFrame(columns).to_parquet(out)


def with_surprise(rows: pd.DataFrame, asked: pd.DataFrame, settings: dict[str, Any]) -> np.ndarray:
    from surprise import SVD, Dataset, Reader

    reader = Reader(rating_scale=(rows.rating.min(), rows.rating.max()))
    data = Dataset.load_from_df(rows[["user", "item", "rating"]], reader)
    model = SVD(random_state=0, **settings).fit(data.build_full_trainset())
    # Not clipped, like all others here.
    return np.array(
        [
            model.predict(user, item, clip=False).est
            for user, item in zip(asked.user, asked.item, strict=True)
        ]
    )


def with_lenskit(rows: pd.DataFrame, asked: pd.DataFrame, settings: dict[str, Any]) -> np.ndarray:
    from lenskit import predict
    from lenskit.als import BiasedMFScorer
    from lenskit.data import ItemList, from_interactions_df
    from lenskit.pipeline import predict_pipeline
    from lenskit.training import TrainingOptions

    data = from_interactions_df(rows.rename(columns={"user": "user_id", "item": "item_id"}))
    pipeline = predict_pipeline(BiasedMFScorer(**settings), fallback=True)
    pipeline.train(data, TrainingOptions(rng=0))
    predicted = np.empty(len(asked))
    for user, places in asked.groupby("user").indices.items():
        scored = predict(pipeline, user, ItemList(item_ids=asked.item.to_numpy()[places]))
        predicted[places] = scored.scores()
    return predicted


def with_cmfrec(rows: pd.DataFrame, asked: pd.DataFrame, settings: dict[str, Any]) -> np.ndarray:
    from cmfrec import CMF

    names = {"user": "UserId", "item": "ItemId", "rating": "Rating"}
    known = rows.rename(columns=names)[list(names.values())]
    model = CMF(random_state=1, verbose=False, **settings).fit(
        known[["UserId", "ItemId", "Rating"]]
    )
    predicted = np.asarray(model.predict(asked.user.to_numpy(), asked.item.to_numpy()))
    return np.where(np.isnan(predicted), rows.rating.mean(), predicted)


if __name__ == "__main__":
    main()
