"""Serve recommendations from a vector index, and compare them with the exact ones.

    dask-als recommend MODEL DATASET --out EXACT -k 10 --seen
    python jobs/vector_index.py MODEL EXACT

The score of a user and an item is a mean, the user's bias, the item's bias and the product of their
factors. For one user, mean and own bias are the same for all items. So with the item's bias as one
more dimension, and a 1 in that place of the user, the items with the largest inner products are the
best ones: what an index of vectors searches for. Needs polars and usearch, nothing of dask-als.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl
from usearch.index import Index


def main(model: str, exact: str) -> None:
    """Print how much of the exact lists the index finds."""
    users, items = (pl.read_parquet(f"{model}/{side}/*.parquet") for side in ("users", "items"))
    index = index_of(items)
    best = pl.read_parquet(f"{exact}/*.parquet").group_by("user_id").agg("item_id")
    both = best.join(users, left_on="user_id", right_on="id")
    manifest = pl.read_parquet_metadata(f"{exact}/_recommendations.parquet")["dask_als"]
    k = json.loads(manifest)["settings"]["k"]
    found = items["id"].to_numpy()[index.search(queries_of(both), k).keys]
    shared = [
        len(set(mine) & set(its)) / len(its)
        for mine, its in zip(found.tolist(), both["item_id"].to_list(), strict=True)
    ]
    print(f"{np.mean(shared):.1%} of the best {k} of {len(shared):,} users found by the index")


def index_of(items: pl.DataFrame) -> Index:
    """Fill an index with items: row i of the table has key i."""
    vectors = np.column_stack([items["factors"].to_numpy(), items["bias"].to_numpy()])
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)
    return index


def queries_of(users: pl.DataFrame) -> np.ndarray:
    """Return what to search for: a vector for each user."""
    return np.column_stack([users["factors"].to_numpy(), np.ones(users.height, np.float32)])


if __name__ == "__main__":
    main(*sys.argv[1:])
