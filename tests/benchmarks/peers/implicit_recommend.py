"""implicit's top k for all users of a model of ours: MODEL DATASET REPEATS K."""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from recommend_data import read_side

BATCHES = (1_000, 10_000, 40_000)

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


def seconds(batch: int) -> float:
    """Recommend to everybody, some at a time."""
    start = time.perf_counter()
    for first in range(0, len(users), batch):
        some = everybody[first : first + batch]
        model.recommend(some, seen[some], N=k, filter_already_liked_items=True)
    return time.perf_counter() - start


runs = {batch: [seconds(batch) for _ in range(repeats)] for batch in BATCHES}
medians = {batch: statistics.median(its) for batch, its in runs.items()}
print(json.dumps({"seconds": runs, "median": min(medians.values()), "by_batch": medians}))
