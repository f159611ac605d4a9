"""implicit's top k for all users of a model of ours: MODEL DATASET REPEATS K.

``recommend`` computes a batch in one thread but for its matrix product, so that both cores can be
had in two ways: BLAS with two threads, or two threads that recommend to a batch each. Either is
tried with two sizes of a batch; the fastest is repeated.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from recommend_data import read_side
from threadpoolctl import threadpool_limits

CORES = len(os.sched_getaffinity(0))
WAYS = [(threads, batch) for threads in (1, CORES) for batch in (1_000, 10_000)]

model_path, dataset, repeats, k = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
user_bias, users = read_side(model_path, "users")
item_bias, items = read_side(model_path, "items")
model = AlternatingLeastSquares(factors=users.shape[1] + 1, num_threads=0)
model.user_factors = np.column_stack([users, np.ones_like(user_bias)])
model.item_factors = np.column_stack([items, item_bias])


rated = pq.read_table(f"{dataset}/by_user")
seen = scipy.sparse.csr_matrix(
    (
        rated.column("rating").to_numpy(),
        (rated.column("user").to_numpy(), rated.column("item").to_numpy()),
    ),
    shape=(len(users), len(items)),
)
everybody = np.arange(len(users))


def seconds(threads: int, batch: int) -> tuple[float, float]:
    """Recommend to everybody, a batch at a time in each thread; BLAS has the other cores."""

    def recommend(first: int) -> None:
        some = everybody[first : first + batch]
        model.recommend(some, seen[some], N=k, filter_already_liked_items=True)

    with threadpool_limits(CORES // threads), ThreadPoolExecutor(threads) as pool:
        start, busy = time.perf_counter(), time.process_time()
        list(pool.map(recommend, range(0, len(users), batch)))
        return time.perf_counter() - start, time.process_time() - busy


runs = {way: [seconds(*way)] for way in WAYS}
best = min(runs, key=runs.get)
runs[best] += [seconds(*best) for _ in range(repeats - 1)]
print(
    json.dumps(
        {
            "seconds": {f"{threads} x {batch}": its for (threads, batch), its in runs.items()},
            "median": statistics.median(taken for taken, _ in runs[best]),
            "processor_seconds": statistics.median(busy for _, busy in runs[best]),
            "timed": f"recommend alone, in {best[0]} threads of {best[1]:,} users at once",
        }
    )
)
