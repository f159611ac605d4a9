"""Recommend with a vector index and compare with the exact recommendations.

    dask-als recommend MODEL DATASET --out EXACT -k 10 --seen
    python jobs/vector_index.py MODEL EXACT

The score of a user and an item is the sum of the mean, both biases and the inner product of the
factors. The mean and the bias of the user are the same for all items. Append the bias of each item
to its factors, and a 1 to those of the user: the items with the largest inner products then have
the highest scores. Needs polars and usearch, but not dask-als.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl
from usearch.index import Index


def main(model: str, exact: str) -> None:
    """Print the recall of the index: the share of the exact lists that it finds."""
    users, items = (pl.read_parquet(f"{model}/{side}/*.parquet") for side in ("users", "items"))
    index = index_of(items)
    best = pl.read_parquet(f"{exact}/*.parquet").group_by("user_id").agg("item_id")
    both = best.join(users, left_on="user_id", right_on="id")
    manifest = pl.read_parquet_metadata(f"{exact}/_recommendations.parquet")["dask_als"]
    k = json.loads(manifest)["settings"]["k"]
    found = items["id"].to_numpy()[index.search(queries_of(both), k).keys]
    shared = [
        len(set(approximate) & set(best)) / len(best)
        for approximate, best in zip(found.tolist(), both["item_id"].to_list(), strict=True)
    ]
    print(f"{np.mean(shared):.1%} of the best {k} of {len(shared):,} users found by the index")


def index_of(items: pl.DataFrame) -> Index:
    """Fill an index with items: row i of the table has key i."""
    vectors = np.column_stack([items["factors"].to_numpy(), items["bias"].to_numpy()])
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)
    return index


def queries_of(users: pl.DataFrame) -> np.ndarray:
    """Return the query vector of each user."""
    return np.column_stack([users["factors"].to_numpy(), np.ones(users.height, np.float32)])


if __name__ == "__main__":
    main(*sys.argv[1:])
