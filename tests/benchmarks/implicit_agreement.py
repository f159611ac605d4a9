"""Train on implicit feedback with the package implicit, from the same factors, and compare.

    python tests/benchmarks/implicit_agreement.py [--data ml-small] [--rank 64] [--epochs 1 5 15]

Both solve the same equations exactly, in float32: confidences 1 + alpha r, implicit by its Cholesky
solver. The difference of two such trainings says nothing of which is off, so both are also compared
with a training of ours in float64 (which the tests compare with plain loops, to 1e-9). Figures of
users and items are the largest difference of any factor, as a share of the largest factor of that
side; those of predictions the largest difference of any u·v, where a preference is 1. Rounding adds
up over epochs, so the first one compares the solvers, and the later ones their precision as well.

implicit is installed into ``.venv-peers``. Prints a JSON object; exit code 1 if the two differ by
more than 1e-4 in any figure of the first epoch, or ours by more from float64 in any figure at all.

On ml-latest-small, rank 64: the two differ by up to 9.4e-6 after an epoch, 8.9e-5 after 5 and
1.2e-4 after 15; ours from float64 by at most 2.7e-5, implicit by 1.2e-4.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmark_data import GENERATED, ratings_folder
from machine import environment
from peers_venv import HERE, install, python_of_peers

from dask_als.core.blocks import random_state
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES
from dask_als.data.dataset import Dataset
from dask_als.data.prepare import prepare
from dask_als.model.model import ALSModel
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

WANTED = 1e-4
MOST_USERS = 2_000
SERIAL = SerialExecutor()


def main() -> None:
    """Train all, print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=GENERATED, default="ml-small")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 15])
    parser.add_argument("--confidence", type=float, default=10.0)
    parser.add_argument("--factor-regularization", type=float, default=10.0)
    arguments = parser.parse_args()
    failed = install(["implicit"])
    if failed:
        sys.exit(failed["implicit"])
    with tempfile.TemporaryDirectory() as folder:
        source = str(ratings_folder(arguments.data))
        dataset = prepare(source, f"{folder}/dataset", SERIAL)
        agreement = [
            compared(dataset, Path(folder), epochs, arguments) for epochs in arguments.epochs
        ]
    print(json.dumps({**vars(arguments), "epochs": agreement}, indent=2))
    judged = [
        value
        for its in agreement
        for pair in ("implicit - ours", "ours - float64")
        for value in its[pair].values()
        if its["epochs"] == 1 or pair == "ours - float64"
    ]
    sys.exit(max(judged) > WANTED)


def compared(dataset: Dataset, folder: Path, epochs: int, arguments: argparse.Namespace) -> dict:
    """Return the differences after some epochs."""
    ours = factors_of_ours(dataset, folder, epochs, "float32", arguments)
    exact = factors_of_ours(dataset, folder, epochs, "float64", arguments)
    theirs = factors_of_implicit(dataset, folder, epochs, arguments)
    pairs = {
        "implicit - ours": (theirs, ours),
        "ours - float64": (ours, exact),
        "implicit - float64": (theirs, exact),
    }
    return {"epochs": epochs} | {name: differences(*both) for name, both in pairs.items()}


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest differences of factors, by side, and of predictions."""
    found = {
        name: float(np.abs(one[name] - other[name]).max() / np.abs(other[name]).max())
        for name in other
    }
    some = slice(MOST_USERS)
    predicted = [its["users"][some] @ its["items"].T for its in (one, other)]
    return found | {"predictions": float(np.abs(predicted[0] - predicted[1]).max())}


def factors_of_ours(
    dataset: Dataset, folder: Path, epochs: int, dtype: str, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Train dask_als; return the factors by side."""
    settings = TrainSettings(
        feedback="implicit",
        rank=arguments.rank,
        epochs=epochs,
        dtype=dtype,
        confidence=arguments.confidence,
        factor_regularization=arguments.factor_regularization,
    )
    path = str(folder / f"model-{dtype}-{epochs}")
    train(dataset, path, settings, SERIAL)
    model = ALSModel.load(path)
    return {side.name: model.rows(side).state.factors.astype(np.float64) for side in SIDES}


def factors_of_implicit(
    dataset: Dataset, folder: Path, epochs: int, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Train implicit from the items' factors that dask_als starts from; return factors by side."""
    rows = range(dataset.items.n_rows)
    start = random_state(ITEMS, rows, rank=arguments.rank, seed=0, dtype="float32")
    given, made = folder / "start.npz", folder / "made.npz"
    np.savez(
        given,
        items=start.factors,
        confidence=arguments.confidence,
        regularization=arguments.factor_regularization,
        epochs=epochs,
    )
    script = str(HERE / "peers" / "implicit_from.py")
    command = [str(python_of_peers()), script, dataset.path, str(given), str(made)]
    subprocess.run(command, env=environment(), check=True)
    with np.load(made) as factors:
        return {side.name: factors[side.name].astype(np.float64) for side in SIDES}


if __name__ == "__main__":
    main()
