"""What the peers' scripts share: their arguments, threads, ratings and one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import threadpoolctl


@dataclass(frozen=True)
class Arguments:
    """What a script is asked to train."""

    data: Path
    rank: int
    epochs: int
    threads: int


@dataclass(frozen=True)
class Peer:
    """What a script trains with, as it is to be read beside the figures."""

    name: str
    package: str
    model: str
    solver: str
    dtype: str
    timed_by: str


@dataclass(frozen=True)
class Ratings:
    """All ratings, in the order of the file; `user` and `item` count from 0 without holes."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    n_users: int
    n_items: int


@dataclass(frozen=True)
class Training:
    """What a script hands back: the settings it trained with and each epoch's seconds."""

    settings: dict[str, Any]
    seconds_per_epoch: list[float]


def read_ratings(folder: Path) -> Ratings:
    """Read a Parquet folder with the columns userId, movieId and rating."""
    table = pyarrow.dataset.dataset(folder, format="parquet").to_table(
        columns=["userId", "movieId", "rating"]
    )
    user_ids, user = np.unique(table["userId"].to_numpy(), return_inverse=True)
    item_ids, item = np.unique(table["movieId"].to_numpy(), return_inverse=True)
    return Ratings(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=table["rating"].to_numpy().astype(np.float32),
        n_users=len(user_ids),
        n_items=len(item_ids),
    )


def run(peer: Peer, train: Callable[[Arguments], Training]) -> None:
    """Train as the command line says and print one line of JSON.

    Everything but the epochs (imports aside) counts as ``load_seconds``.
    """
    arguments = _parse()
    _keep_to_cores(arguments.threads)
    start = time.monotonic()
    # A peer with threads of its own would otherwise run threads of BLAS in each of them.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        training = train(arguments)
        blas = _single_threaded_blas()
    seconds = time.monotonic() - start
    timed = len(training.seconds_per_epoch)
    if timed != arguments.epochs:
        raise RuntimeError(f"{arguments.epochs} epochs were asked for, {timed} were timed")
    print(
        json.dumps(
            {
                "peer": peer.name,
                "version": version(peer.package),
                **{key: value for key, value in asdict(peer).items() if key != "name"},
                "settings": training.settings,
                "rank": arguments.rank,
                "threads": arguments.threads,
                "seconds_per_epoch": [round(epoch, 6) for epoch in training.seconds_per_epoch],
                "load_seconds": round(seconds - sum(training.seconds_per_epoch), 3),
                "blas": blas,
            }
        ),
        flush=True,
    )


def _parse() -> Arguments:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="Parquet folder: userId, movieId, rating")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return Arguments(**vars(parser.parse_args()))


def _keep_to_cores(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _single_threaded_blas() -> list[str]:
    """Name the BLAS libraries that are loaded, having checked that each runs one thread."""
    libraries = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    for library in libraries:
        if library["num_threads"] != 1:
            raise RuntimeError(f"BLAS runs {library['num_threads']} threads, not 1: {library}")
    return [
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
        for library in libraries
    ]
