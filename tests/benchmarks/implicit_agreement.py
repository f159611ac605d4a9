"""Train on implicit feedback beside the package implicit, from the same factors, and compare.

    python tests/benchmarks/implicit_agreement.py [--data ml-small] [--rank 64] [--epochs 1 5 15]

Both solve the same equations exactly, in float32: confidences 1 + alpha r, implicit by its Cholesky
solver. The difference of two such trainings says nothing of which is off, so both are also compared
with a training of ours in float64 (which the tests compare with plain loops, to 1e-9). All figures
are the largest difference of any factor, as a share of the largest factor of that side.

implicit is installed into ``.venv-peers``. Prints a JSON object; exit code 1 if, after any number
of epochs, the two differ by more than 1e-4.
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

from dask_als.blocks import random_state
from dask_als.dataset import Dataset
from dask_als.executor import SerialExecutor
from dask_als.model import ALSModel
from dask_als.prepare import prepare
from dask_als.settings import TrainSettings
from dask_als.side import ITEMS, SIDES
from dask_als.train import train

WANTED = 1e-4
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
    sys.exit(any(its["implicit - ours"][side.name] > WANTED for its in agreement for side in SIDES))


def compared(dataset: Dataset, folder: Path, epochs: int, arguments: argparse.Namespace) -> dict:
    """Give the differences after some epochs."""
    ours = factors_of_ours(dataset, folder, epochs, "float32", arguments)
    exact = factors_of_ours(dataset, folder, epochs, "float64", arguments)
    theirs = factors_of_implicit(dataset, folder, epochs, arguments)
    pairs = {
        "implicit - ours": (theirs, ours),
        "ours - float64": (ours, exact),
        "implicit - float64": (theirs, exact),
    }
    return {"epochs": epochs} | {
        name: {
            side.name: float(np.abs(one[side.name] - other[side.name]).max() / largest)
            for side in SIDES
            for largest in [np.abs(exact[side.name]).max()]
        }
        for name, (one, other) in pairs.items()
    }


def factors_of_ours(
    dataset: Dataset, folder: Path, epochs: int, dtype: str, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Train ours; give the factors by side."""
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
    """Train implicit from the items' factors that ours starts from; give the factors by side."""
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
