"""The ratings of the benchmarks, made once and kept in the build directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
from machine import environment, say

from dask_als.data.dataset import Dataset, open_dataset
from dask_als.data.synthetic import MOVIELENS_25M, MOVIELENS_SMALL, GenerateSettings, write_ratings

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build/benchmarks"
REAL_SMALL = PROJECT.parent / "shared/data/ml-latest-small/ratings.csv"

GENERATED = {
    "ml-small": MOVIELENS_SMALL,
    "1m": GenerateSettings(n_users=6_040, n_items=3_706, n_ratings=1_000_209),
    "20m": GenerateSettings(n_users=162_541, n_items=59_047, n_ratings=20_000_000),
    "25m": MOVIELENS_25M,
}


def in_the_shape_of_20m(n_ratings: int) -> GenerateSettings:
    """Return settings with the ratings per user and per item of ``20m``."""
    whole = GENERATED["20m"]
    share = n_ratings / whole.n_ratings
    return GenerateSettings(
        n_users=round(share * whole.n_users),
        n_items=round(share * whole.n_items),
        n_ratings=n_ratings,
    )


def source(data: str) -> str:
    """Say whether a data set is real or generated."""
    return "GroupLens" if data == "ml-small" and REAL_SMALL.exists() else "generated"


def ratings_folder(data: str, build: Path = BUILD) -> Path:
    """Return a Parquet folder with the ratings, made once."""
    if source(data) == "generated":
        return generated_ratings(GENERATED[data], build=build)
    folder = build / "data" / f"{data}-GroupLens"
    if not folder.exists():
        folder.mkdir(parents=True)
        ratings = pyarrow.csv.read_csv(REAL_SMALL)
        pyarrow.parquet.write_table(ratings, folder / "part-00000.parquet")
    return folder


def generated_ratings(settings: GenerateSettings, suffix: str = "", *, build: Path = BUILD) -> Path:
    """Return the path of ratings with these settings, made once: a Parquet folder or a CSV file."""
    path = build / "data" / f"{_name(settings)}{suffix}"
    if not path.exists():
        say(f"generating {path}")
        write_ratings(settings, path)
    return path


def generated_dataset(settings: GenerateSettings, partitions: int | None = None) -> Dataset:
    """Return a prepared dataset of generated ratings, made once."""
    suffix = "" if partitions is None else f"-{partitions}"
    path = BUILD / "datasets" / f"{_name(settings)}{suffix}"
    if not path.exists():
        command = [sys.executable, "-m", "dask_als", "prepare"]
        command += [str(generated_ratings(settings)), str(path), "--dashboard", "127.0.0.1:0"]
        command += [] if partitions is None else ["--partitions", str(partitions)]
        say(f"preparing {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return open_dataset(str(path))


def _name(settings: GenerateSettings) -> str:
    """Return a name of data by its size; ``20m`` is shared with the comparison of peers."""
    for name, known in GENERATED.items():
        if settings == known:
            return f"{name}-generated"
    return f"{settings.n_ratings}-of-{settings.n_users}x{settings.n_items}"
