import numpy as np
import pytest
import pytrec_eval

from dask_als.evaluation.ranking_metrics import MEASURES, measures

OF_TREC = {
    "precision": "P_7",
    "recall": "recall_7",
    "ndcg": "ndcg_cut_7",
    "map": "map_cut_7",
    "hit_rate": "success_7",
}


def test_measures_equal_those_of_trec_eval():
    draw = np.random.default_rng(0)
    n, k, n_items = 300, 7, 40
    recommended = np.array([draw.permutation(n_items)[:k] for _ in range(n)])
    lengths = draw.integers(0, k + 1, n)
    recommended[np.arange(k) >= lengths[:, None]] = -1
    relevant = [np.sort(draw.permutation(n_items)[: draw.integers(1, 20)]) for _ in range(n)]
    indptr = np.cumsum([0, *map(len, relevant)])
    found = measures(recommended, indptr, np.concatenate(relevant))
    assert set(found) == set(MEASURES)

    judged = {str(i): {str(item): 1 for item in items} for i, items in enumerate(relevant)}
    run = {
        str(i): {str(item): float(k - place) for place, item in enumerate(items) if item >= 0}
        for i, items in enumerate(recommended)
    }
    evaluator = pytrec_eval.RelevanceEvaluator(
        judged, {"P.7", "recall.7", "ndcg_cut.7", "map_cut.7", "success.7"}
    )
    theirs = evaluator.evaluate(run)
    nothing = dict.fromkeys(OF_TREC.values(), 0.0)
    for name, its in OF_TREC.items():
        expected = [theirs.get(str(i), nothing)[its] for i in range(n)]
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-9)


def test_a_list_known_by_hand():
    """Hits at places 1 and 3 of relevant items 5, 6 and 9."""
    found = measures(np.array([[5, 1, 9, 2]]), np.array([0, 3]), np.array([5, 6, 9]))
    assert found["precision"] == pytest.approx(2 / 4)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["map"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["ndcg"] == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3) + 1 / 2))
    assert found["hit_rate"] == 1
