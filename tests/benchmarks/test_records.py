"""The records' protocols, on small data."""

import sys
from pathlib import Path

import numpy as np
import pytest
from support.data import read_state

sys.path.insert(0, str(Path(__file__).parent))
import records_implicit as records


def interactions(n_users, n_items, n, seed=0):
    rng = np.random.default_rng(seed)
    pairs = np.unique(
        np.column_stack([rng.integers(n_users, size=n), rng.integers(n_items, size=n)]), axis=0
    )
    return pairs[np.lexsort((rng.permutation(len(pairs)), pairs[:, 0]))]


def test_the_settings_minimize_the_published_loss(tmp_path):
    """The gradient of the published loss is zero for the side that is solved last."""
    weight, unobserved = 0.02, 0.3
    settings = records.ials(rank=3, weight=weight, unobserved=unobserved, epochs=3)
    rows = interactions(20, 12, 120)
    _, path = records.trained(settings, rows, str(tmp_path))
    scale = 1 / np.sqrt(1 + unobserved)
    users, items = (
        np.array([factors for _, factors in sorted(read_state(path, side)[1].items())]) * scale
        for side in ("users", "items")
    )
    observed = np.zeros((len(users), len(items)))
    places = [np.unique(column, return_inverse=True)[1] for column in rows.T]
    observed[tuple(places)] = 1
    predicted = users @ items.T
    errors = observed * (predicted - 1) + unobserved * predicted
    sizes = observed.sum(axis=0) + unobserved * len(users)
    gradient = errors.T @ users + weight * sizes[:, None] * items
    assert np.abs(gradient).max() < 1e-4 * np.abs(errors.T @ users).max()


def test_the_last_interaction_is_held_out_with_negatives_that_the_user_does_not_have():
    rows = interactions(10, 300, 400)
    kept, candidates = records.last_held_out(rows, 300)
    assert len(kept) == len(rows) - 10
    assert candidates.shape == (10, 101)
    for user, last, *others in candidates:
        items = rows[rows[:, 0] == user, 1]
        assert last == items[-1]
        assert last not in kept[kept[:, 0] == user, 1]
        assert len(set(others)) == 99
        assert not set(others) & set(items)


def test_hits_and_their_places(monkeypatch):
    """Among 5 candidates, the test items of three users come first, third and last."""
    scores = {0: [9, 1, 2, 3, 4], 1: [5, 7, 6, 1, 2], 2: [0, 1, 2, 3, 4]}

    class Model:
        def predict(self, users, items, unknown):
            return np.array([scores[user][item] for user, item in zip(users, items, strict=True)])

    class Dataset:
        path = "d"

    monkeypatch.setattr(records, "trained", lambda *arguments: (Dataset, "m"))
    monkeypatch.setattr(records.ALSModel, "load", lambda *arguments: Model())
    candidates = np.array([[user, 0, 1, 2, 3, 4] for user in scores])
    measured = records.hits_and_ndcg(None, None, candidates, k=3)
    assert measured == pytest.approx({"HR@3": 2 / 3, "NDCG@3": (1 + 1 / np.log2(4)) / 3})


def test_files_of_both_protocols(tmp_path):
    (tmp_path / "train.txt").write_text("0 5 7\n2 5\n3\n")
    assert records.read_lists(tmp_path / "train.txt").tolist() == [[0, 5], [0, 7], [2, 5]]
    (tmp_path / "x.test.rating").write_text("0\t25\t5\t978824351\n1\t133\t3\t978300174\n")
    (tmp_path / "x.test.negative").write_text("(0,25)\t1064\t174\n(1,133)\t10\t11\t\n")
    assert records.read_candidates(tmp_path, "x").tolist() == [[0, 25, 1064, 174], [1, 133, 10, 11]]
