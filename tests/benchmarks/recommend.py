"""Time the top 10 for all users of 20 million ratings, beside implicit and Spark.

    python tests/benchmarks/recommend.py [--repeats 3] [--spark-users 10000]

All recommend from the same factors: a model of ours, rank 64, two epochs. implicit has no biases,
so they are two more columns there, as it has it for its own models with biases. Timed is the call
alone, on both cores: our tasks, which read the partitions and write Parquet; implicit's
``recommend`` with factors in memory (the fastest of several batch sizes); and Spark's
``recommendForUserSubset`` on a sample of users, extrapolated, as all users take too long. implicit
and we leave out what users have rated; Spark cannot.

implicit and Spark are installed into ``.venv-peers``. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_data import BUILD, GENERATED, generated_dataset
from machine import environment, say
from peers_venv import HERE, install, python_of_peers

from dask_als.cluster import ClusterSettings, DaskExecutor, connected
from dask_als.dataset import Dataset
from dask_als.recommend import recommend
from dask_als.settings import RecommendSettings, TrainSettings
from dask_als.train import train

K = 10
PARTITIONS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", choices=GENERATED, default="20m")
    parser.add_argument("--spark-users", type=int, default=10_000)
    arguments = parser.parse_args()
    dataset = generated_dataset(GENERATED[arguments.data], PARTITIONS)
    model = BUILD / "models" / f"{arguments.data}-64"
    results = {"data": arguments.data, "users": dataset.users.n_rows, "k": K}
    results["dask_als"] = ours(dataset, model, arguments.repeats)
    failures = install(["implicit", "pyspark"])
    for package, script, number in (
        ("implicit", "implicit_recommend.py", arguments.repeats),
        ("pyspark", "spark_recommend.py", arguments.spark_users),
    ):
        say(f"running {package}")
        results[package] = failures.get(package) or peer(script, model, dataset.path, number)
    print(json.dumps(results, indent=2))


def ours(dataset: Dataset, model: Path, repeats: int) -> dict:
    """Give the seconds of each run of ours, the first of which compiles or loads the kernels."""
    settings = ClusterSettings(workers=1, dashboard="127.0.0.1:0")
    with connected(settings) as client, tempfile.TemporaryDirectory() as folder:
        executor = DaskExecutor(client)
        if not model.exists():
            model.parent.mkdir(parents=True, exist_ok=True)
            train(dataset, str(model), TrainSettings(rank=64, epochs=2), executor)
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            out = str(Path(folder) / "out")
            recommend(str(model), dataset, out, executor, RecommendSettings(k=K), overwrite=True)
            seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "seconds": seconds[1:], "median": statistics.median(seconds[1:])}


def peer(script: str, model: Path, dataset: str, number: int) -> dict | str:
    """Give what a peer's script prints, or the end of its complaint."""
    command = [str(python_of_peers()), str(HERE / "peers" / script), str(model), dataset]
    result = subprocess.run(
        [*command, str(number), str(K)], env=environment(), text=True, capture_output=True
    )
    if result.returncode:
        return result.stderr.strip()[-300:]
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
