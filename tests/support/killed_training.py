"""A training for a process of its own, which has to import what it runs."""

from dask_als.core.executor import SerialExecutor
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train
from support.data import small_settings


def train_on(dataset, model, checkpoints, epochs):
    """Train, resuming; runs in a process of its own."""
    train(
        dataset,
        model,
        small_settings(epochs=epochs),
        SerialExecutor(),
        checkpoints=CheckpointSettings(directory=checkpoints, every=1, resume=True),
    )
