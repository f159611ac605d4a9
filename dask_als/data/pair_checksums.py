"""A checksum of ratings that does not depend on their order."""

from __future__ import annotations

import numpy as np

from dask_als.data.split import mixed

# What is computed from so many ratings stays in a processor's cache.
_AT_ONCE = 1 << 14


def checksum_of(
    user: np.ndarray, item: np.ndarray, rating: np.ndarray, weights: np.ndarray | None
) -> int:
    """Sum hashes of (user, item, rating) and, if there are any, weights, modulo 2**64.

    Parameters
    ----------
    user, item : ndarray of int32
    rating, weights : ndarray of float32
    """
    total = 0
    for start in range(0, len(user), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        pairs = user[some].astype(np.uint64) << np.uint64(32) | item[some].astype(np.uint64)
        hashes = mixed(mixed(pairs) + rating[some].view(np.uint32))
        if weights is not None:
            hashes = mixed(hashes + weights[some].view(np.uint32))
        total += int(hashes.sum(dtype=np.uint64))
    return total % 2**64
