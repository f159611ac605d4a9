"""LensKit's biased ALS for explicit ratings: damped means, then ALS on what they leave."""

from __future__ import annotations

import time

import pyarrow.dataset
from common import Arguments, Peer, Training, run
from lenskit.als import BiasedMFScorer
from lenskit.data import from_interactions_df
from lenskit.parallel import initialize
from lenskit.training import TrainingOptions


def train(arguments: Arguments) -> Training:
    """Train epoch by epoch with LensKit's own trainer."""
    initialize(processes=1, threads=arguments.threads, backend_threads=1)
    table = pyarrow.dataset.dataset(arguments.data).to_table(
        columns=["userId", "movieId", "rating"]
    )
    dataset = from_interactions_df(
        table.rename_columns(["user_id", "item_id", "rating"]).to_pandas()
    )
    settings = {"regularization": 0.05}
    model = BiasedMFScorer(embedding_size=arguments.rank, epochs=arguments.epochs, **settings)
    trainer = model.create_trainer(dataset, TrainingOptions(rng=0))
    seconds = []
    for _ in range(arguments.epochs):
        start = time.monotonic()
        trainer.train_epoch()
        seconds.append(time.monotonic() - start)
    trainer.finalize()
    return Training(settings, seconds)


run(
    Peer(
        name="LensKit BiasedMF",
        package="lenskit",
        model="explicit ratings, biases beforehand",
        solver="exact",
        dtype="float32",
        timed_by="the calls of its trainer",
    ),
    train,
)
