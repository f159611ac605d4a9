"""dask_als itself, in the form of the peers' scripts, run by the project's own Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from common import Arguments, Peer, Training, run  # isort: skip

from dask_als import ALS
from dask_als.cluster.connect import connected
from dask_als.cluster.settings import ClusterSettings


def train(arguments: Arguments, **method: Any) -> Training:
    """Prepare and train on a local cluster, as the command does; return each epoch's seconds.

    One epoch more is trained, and the first is left out: its seconds are those of reading, too.

    This is the one place where the benchmark meets the package. `arguments` has ``data`` (a
    Parquet folder with userId, movieId and rating), ``rank``, ``epochs`` and ``threads``; `method`
    are more of the settings.
    """
    settings = {"workers": 1, "threads_per_worker": arguments.threads, "dtype": "float32", **method}
    with connected(ClusterSettings(threads=arguments.threads, dashboard="127.0.0.1:0")) as client:
        als = ALS(
            rank=arguments.rank,
            epochs=arguments.epochs + 1,
            dtype=settings["dtype"],
            client=client,
            **method,
        )
        history = als.fit(str(arguments.data)).history
    return Training(settings, [figures.seconds for figures in history[1:]])


def peer(name: str, model: str) -> Peer:
    """Describe this package by the kind of model it trains."""
    return Peer(
        name=name,
        package="dask-als",
        model=model,
        solver="exact",
        dtype="float32",
        timed_by="the seconds in its history",
    )


if __name__ == "__main__":
    run(peer("dask_als", "explicit ratings, biases"), train)
