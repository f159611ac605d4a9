"""Time the top 10 for all users of 20 million ratings, with dask_als, implicit and Spark.

    python tests/benchmarks/recommend.py [--repeats 3] [--spark-users 2000]

All recommend from the same factors: a model of ours, rank 64, two epochs. implicit has no biases,
so they are two more columns there, as it has it for its own models with biases. Timed is the call
alone, on both cores: our tasks, which read the partitions and write Parquet; implicit's
``recommend`` with factors in memory (the fastest of several ways); and Spark's
``recommendForUserSubset`` on two samples of users, extrapolated, as all take too long. implicit
and we leave out what users have rated; Spark cannot.

implicit and Spark are installed into ``.venv-peers``. Writes ``recommend.json`` and
``recommend.md`` to ``build/benchmarks``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark_data import BUILD, GENERATED, generated_dataset
from distributed import Client
from machine import Watch, describe, environment, say, sgemm_gflops
from peers_venv import HERE, install, python_of_peers, reason

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.data.dataset import Dataset
from dask_als.model.recommend import recommend
from dask_als.settings.evaluation import RecommendSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

K = 10
RANK = 64
PARTITIONS = 20


def main() -> None:
    """Run all contenders and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", choices=GENERATED, default="20m")
    parser.add_argument("--spark-users", type=int, default=2_000)
    options = parser.parse_args()
    dataset = generated_dataset(GENERATED[options.data], PARTITIONS)
    model = BUILD / "models" / f"{options.data}-{RANK}"
    failures = install(["implicit", "pyspark"])
    make_model(dataset, model)
    sgemm = [sgemm_gflops()]
    rows = {
        "dask_als": watched("dask_als", lambda: ours(dataset, model, options.repeats)),
        "implicit": failures.get("implicit")
        or watched(
            "implicit",
            lambda: peer("implicit_recommend.py", model, dataset, options.repeats),
        ),
        "spark": failures.get("pyspark")
        or watched(
            "spark", lambda: peer("spark_recommend.py", model, dataset, options.spark_users)
        ),
    }
    sgemm.append(sgemm_gflops())
    results = {
        "machine": describe() | {"sgemm_gflops_of_a_core": sgemm},
        "data": asdict(GENERATED[options.data]),
        "rank": RANK,
        "k": K,
        "repeats": options.repeats,
        "rows": rows,
    }
    (BUILD / "recommend.json").write_text(json.dumps(results, indent=1) + "\n")
    (BUILD / "recommend.md").write_text(markdown(results))
    print(markdown(results))
    say(f"written: {BUILD / 'recommend.md'}, {BUILD / 'recommend.json'}")


def make_model(dataset: Dataset, model: Path) -> None:
    """Train the model that all contenders use, once."""
    if model.exists():
        return
    model.parent.mkdir(parents=True, exist_ok=True)
    with connected(ClusterSettings(workers=1, dashboard="127.0.0.1:0")) as client:
        train(dataset, str(model), TrainSettings(rank=RANK, epochs=2), DaskExecutor(client))


def watched(name: str, measure: Callable[[], dict[str, Any] | str]) -> dict[str, Any] | str:
    """Measure the time, the memory, and the load of other processes."""
    say(f"running {name} …")
    with Watch(os.getpid()) as watch:
        found = measure()
    if isinstance(found, str):
        say(f"  failed: {found}")
        return found
    say(f"  {found['median']:.2f} s")
    return found | {
        "peak_memory_bytes": watch.peak_memory_bytes,
        "others_cores": round(watch.others_cores, 2),
    }


def ours(dataset: Dataset, model: Path, repeats: int) -> dict[str, Any]:
    """Return the seconds of each run of dask_als; the first compiles or loads the kernels."""
    settings = ClusterSettings(workers=1, dashboard="127.0.0.1:0")
    with connected(settings) as client, tempfile.TemporaryDirectory() as folder:
        executor, seconds, processor = DaskExecutor(client), [], []
        for _ in range(repeats + 1):
            start, busy = time.perf_counter(), processor_seconds(client)
            out = str(Path(folder) / "out")
            recommend(str(model), dataset, out, executor, RecommendSettings(k=K), overwrite=True)
            seconds.append(time.perf_counter() - start)
            processor.append(processor_seconds(client) - busy)
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "median": statistics.median(seconds[1:]),
        "processor_seconds": statistics.median(processor[1:]),
        "timed": "reading partitions, and writing Parquet, with it",
    }


def processor_seconds(client: Client) -> float:
    """Return the processor time of this process, with the scheduler, and of the workers so far."""
    return time.process_time() + sum(client.run(time.process_time).values())


def peer(script: str, model: Path, dataset: Dataset, number: int) -> dict[str, Any] | str:
    """Return the output of a peer's script, or the end of its error message."""
    command = [str(python_of_peers()), str(HERE / "peers" / script), str(model), dataset.path]
    result = subprocess.run(
        [*command, str(number), str(K)], env=environment(), text=True, capture_output=True
    )
    if result.returncode:
        return f"exit code {result.returncode}, {reason(result.stderr)}"
    return json.loads(result.stdout.splitlines()[-1])


def markdown(results: dict[str, Any]) -> str:
    """Write the table and what it was measured on."""
    data, on = results["data"], results["machine"]
    our_seconds = results["rows"]["dask_als"]["median"]
    lines = [
        f"### Top {results['k']} for all {data['n_users']:,} users of {data['n_items']:,} items, "
        f"rank {results['rank']}, {data['n_ratings']:,} ratings left out",
        "",
        "| | seconds | times ours | processor seconds | memory | timed |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in results["rows"].items():
        if isinstance(row, str):
            lines.append(f"| {name} | failed: {row.replace('|', '/')} | | | | |")
            continue
        processor = f"{row['processor_seconds']:.3g}" if "processor_seconds" in row else ""
        lines.append(
            f"| {name} | {row['median']:.3g} | {row['median'] / our_seconds:.2f} "
            f"| {processor} "
            f"| {row['peak_memory_bytes'] / 1e9:.2f} GB | {row['timed']} |"
        )
    others = [row["others_cores"] for row in results["rows"].values() if isinstance(row, dict)]
    sgemm = on["sgemm_gflops_of_a_core"]
    lines += [
        "",
        f"{on['date']}, {on['processor']}, {on['cores']} cores, "
        f"{on['memory_bytes'] / 2**30:.0f} GiB, {on['system']}, Python {on['python']}, "
        f"{on['java']}. Medians of {results['repeats']} runs. Others took up to "
        f"{max(others, default=0):.2f} cores during a run; sgemm of one core before and after: "
        f"{min(sgemm):.0f} to {max(sgemm):.0f} GFLOP/s.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
