"""implicit's factors from a given start: DATASET GIVEN.npz MADE.npz."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares

dataset, given_path, made_path = sys.argv[1:]
given = np.load(given_path)
rated = pq.read_table(f"{dataset}/by_user")
user, item = rated.column("user").to_numpy(), rated.column("item").to_numpy()
# It takes the confidence of a pair as a whole, the 1 of pairs without a rating included.
confidences = 1 + float(given["confidence"]) * rated.column("rating").to_numpy()
n_users, (n_items, rank) = int(user.max()) + 1, given["items"].shape
model = AlternatingLeastSquares(
    factors=rank,
    iterations=int(given["epochs"]),
    regularization=float(given["regularization"]),
    alpha=1.0,
    use_cg=False,
    dtype="float32",
)
model.item_factors = given["items"].copy()
# It solves users first: what they start from does not count for an exact solver.
model.user_factors = np.zeros((n_users, rank), "float32")
model.fit(
    scipy.sparse.csr_matrix((confidences, (user, item)), (n_users, n_items)), show_progress=False
)
np.savez(made_path, users=model.user_factors, items=model.item_factors)
