"""Measures of ranked lists against held-out items; plain arrays in, one number per list out."""

from __future__ import annotations

import numpy as np

MEASURES = ("precision", "recall", "ndcg", "map", "hit_rate")


def measures(
    recommended: np.ndarray, indptr: np.ndarray, relevant: np.ndarray
) -> dict[str, np.ndarray]:
    """Measure ranked lists, each against its own relevant items.

    Relevance is binary. The definitions are those of trec_eval: ``map`` divides by all relevant
    items, and the ideal list of ``ndcg`` has as many of them as fit. Järvelin and Kekäläinen 2002,
    "Cumulated gain-based evaluation of IR techniques".

    Parameters
    ----------
    recommended : ndarray of int, shape (n_lists, k)
        Items from the best; -1 where a list is shorter.
    indptr, relevant : ndarray of int, shapes (n_lists + 1,), (n_relevant,)
        Relevant items of each list, at least one, as compressed sparse rows; ascending in each.

    Returns
    -------
    dict of str to ndarray of float64, shape (n_lists,)
        By the names in `MEASURES`.
    """
    k = recommended.shape[1]
    counts = np.diff(indptr)
    hits = found_in(recommended, indptr, relevant)
    n_hits = hits.sum(axis=1)
    places = np.arange(1, k + 1)
    gains = 1 / np.log2(places + 1)
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(counts, k)]
    precision_at_hits = hits * np.cumsum(hits, axis=1) / places
    return {
        "precision": n_hits / k,
        "recall": n_hits / counts,
        "ndcg": (hits * gains).sum(axis=1) / ideal,
        "map": precision_at_hits.sum(axis=1) / counts,
        "hit_rate": (n_hits > 0).astype(np.float64),
    }


def found_in(recommended: np.ndarray, indptr: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return whether each recommended item is relevant to its list; bool, shape (n_lists, k)."""
    n = len(indptr) - 1
    width = int(max(relevant.max(initial=0), recommended.max(initial=0))) + 2
    lists = np.arange(n, dtype=np.int64)
    keys = np.repeat(lists, np.diff(indptr)) * width + relevant
    wanted = lists[:, None] * width + recommended
    # A last key, larger than all others, keeps every position within range.
    at = np.searchsorted(keys, wanted)
    keys = np.append(keys, n * width)
    return (keys[at] == wanted) & (recommended >= 0)
