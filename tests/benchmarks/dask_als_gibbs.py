"""dask_als with Gibbs sampling: each epoch includes writing the sample of the one before."""

from __future__ import annotations

from dask_als_epoch import peer, train

from common import Arguments, Training, run  # isort: skip


def train_samples(arguments: Arguments) -> Training:
    """Train with a burn-in of one epoch, the one that is not measured."""
    return train(arguments, method="gibbs", burn_in=1, samples=arguments.epochs)


if __name__ == "__main__":
    run(peer("dask_als, gibbs", "samples of ratings, biases"), train_samples)
