import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dask_als.data.split import hashed_ids, latest_test, mixed, random_test, sorted_pairs

RATINGS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 3),
        st.floats(0.5, 5, width=32),
        st.sampled_from([0.0, 1.0, 2.5, -3.0]),
    ),
    min_size=1,
    max_size=60,
)


def columns(ratings):
    user, item, rating, time = zip(*ratings, strict=True)
    return (
        np.array(user, np.int32),
        np.array(item, np.int32),
        np.array(rating, np.float32),
        np.array(time),
    )


@given(RATINGS)
def test_the_latest_of_each_pair_is_kept(ratings):
    user, item, _, time = columns(ratings)
    pairs = sorted_pairs(user, item)
    by_time, by_place = {}, {}
    for place, (u, i, _, t) in enumerate(ratings):
        by_place[u, i] = place
        if (u, i) not in by_time or t >= ratings[by_time[u, i]][3]:
            by_time[u, i] = place
    assert pairs.last(time).tolist() == [by_time[pair] for pair in sorted(by_time)]
    assert pairs.last(None).tolist() == [by_place[pair] for pair in sorted(by_place)]
    assert pairs.n_merged == len(ratings) - len(by_place)


@given(RATINGS, st.randoms(use_true_random=False))
def test_the_mean_of_each_pair_does_not_depend_on_order(ratings, random):
    user, item, rating, _ = columns(ratings)
    means = sorted_pairs(user, item).mean(rating)
    of_pair = {}
    for u, i, r, _ in ratings:
        of_pair.setdefault((u, i), []).append(r)
    expected = [np.mean(of_pair[pair]) for pair in sorted(of_pair)]
    assert means.dtype == np.float32
    assert np.allclose(means, expected, rtol=1e-6)

    random.shuffle(ratings)
    user, item, rating, _ = columns(ratings)
    assert sorted_pairs(user, item).mean(rating).tobytes() == means.tobytes()


def test_a_mean_of_very_different_ratings_does_not_depend_on_order():
    ratings = np.array([1e30, 1, -1e30, 1e30, 3, -1e30], np.float32)
    same = np.zeros(3, np.int32)
    means = {
        sorted_pairs(same, same).mean(ratings[list(order)]).item()
        for order in itertools.permutations(range(3))
    }
    assert len(means) == 1


def test_pairs_of_no_ratings():
    none = np.array([], np.int32)
    pairs = sorted_pairs(none, none)
    assert pairs.last(None).shape == pairs.mean(np.array([], np.float32)).shape == (0,)
    assert pairs.n_merged == 0


def test_pairs_of_the_highest_indices():
    top = np.array([2**31 - 1, 0], np.int32)
    assert sorted_pairs(top, top).order.tolist() == [1, 0]


@given(RATINGS, st.floats(0, 0.99))
def test_each_users_latest_are_held_out(ratings, fraction):
    ratings = sorted({(u, i): (u, i, r, t) for u, i, r, t in ratings}.values())
    user, _, _, time = columns(ratings)
    expected = []
    for u in sorted(set(user.tolist())):
        its = sorted((t, i) for v, i, _, t in ratings if v == u)
        n = min(int(np.floor(len(its) * fraction + 0.5)), len(its) - 1)
        expected += sorted((u, i) for _, i in its[len(its) - n :])
    chosen = latest_test(user, time, fraction=fraction)
    assert [(u, i) for (u, i, _, _), c in zip(ratings, chosen, strict=True) if c] == expected


def test_the_random_split_holds_out_its_share():
    rng = np.random.default_rng(0)
    users = hashed_ids(pa.array(np.arange(300)))[rng.integers(0, 300, 40_000)]
    items = hashed_ids(pa.array(np.arange(1000)))[rng.integers(0, 1000, 40_000)]
    chosen = random_test(users, items, fraction=0.1, seed=0)
    assert abs(chosen.mean() - 0.1) < 0.006
    shares = [chosen[users == user].mean() for user in np.unique(users)]
    assert np.std(shares) < 1.3 * np.sqrt(0.09 / (40_000 / 300))
    again = random_test(users[::-1], items[::-1], fraction=0.1, seed=0)[::-1]
    assert np.array_equal(chosen, again)
    other = random_test(users, items, fraction=0.1, seed=1)
    assert abs((chosen & other).mean() - 0.01) < 0.003
    more = random_test(users, items, fraction=0.3, seed=0)
    assert not (chosen & ~more).any()


def test_users_and_items_are_not_mistaken_for_each_other():
    ids = hashed_ids(pa.array(np.arange(100)))
    one, other = np.meshgrid(ids, ids)
    chosen = random_test(one.ravel(), other.ravel(), fraction=0.5, seed=0).reshape(100, 100)
    assert abs((chosen == chosen.T).mean() - 0.5) < 0.03


def test_hashes_are_the_same_everywhere():
    numbers = [6238072747940578789, 15839785061582574730, 13029008266876403067]
    assert hashed_ids(pa.array([1, 2, -1])).tolist() == numbers
    assert hashed_ids(pa.array([1, 2, 2**64 - 1], pa.uint64())).tolist() == numbers
    assert hashed_ids(pa.array(["a", "ü"])).tolist() == [13950350942979735504, 6689755093696353227]


def test_mixed_is_splitmix64s_finalizer():
    # The first outputs of splitmix64 seeded with 1234567, as published with it.
    step = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * n) % 2**64 for n in (1, 2, 3)], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mixed(states).tolist() == expected


def test_sums_of_pairs_do_not_depend_on_order():
    user, item = np.array([0, 0, 1, 0], np.int32), np.array([2, 1, 2, 2], np.int32)
    rating = np.array([1.5, 2, 7, 3], np.float32)
    sums = sorted_pairs(user, item).sum(rating)
    assert sums.dtype == np.float32
    assert sums.tolist() == [2, 4.5, 7]
    backward = sorted_pairs(user[::-1], item[::-1]).sum(rating[::-1])
    assert backward.tolist() == sums.tolist()
