"""Time a million users folded into the model that ``recommend.py`` makes: 20 ratings each.

    python tests/benchmarks/fold_in.py [--users 1000000]

Timed is ``dask-als fold-in`` as a person runs it: the whole command, from Parquet to a model, with
all ratings sorted into a dataset on the way. Writes ``fold_in.json`` to ``build/benchmarks``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

from benchmark_data import BUILD, GENERATED, generated_ratings
from machine import Watch, describe, environment, say


def main() -> None:
    """Generate the ratings, fold their users in and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    options = parser.parse_args()
    model, out = BUILD / "models" / "20m-64", BUILD / "folded"
    if not model.exists():
        sys.exit("make the model first: python tests/benchmarks/recommend.py")
    # The same items: their ids follow from their number and the seed.
    settings = replace(
        GENERATED["20m"], n_users=options.users, n_ratings=max(20 * options.users, 100_000)
    )
    ratings = generated_ratings(settings)
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "dask_als", "fold-in", str(ratings), str(model)]
    command += ["--out", str(out), "--json", "--dashboard", "127.0.0.1:0"]
    start = time.perf_counter()
    with Watch(os.getpid()) as watch:
        done = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE)
    results = {
        "machine": describe(),
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": watch.peak_memory_bytes,
        "others_cores": round(watch.others_cores, 2),
        "result": json.loads(done.stdout),
    }
    (BUILD / "fold_in.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    say(f"written: {BUILD / 'fold_in.json'}")


if __name__ == "__main__":
    main()
