"""The generator: its counts, its independence of chunks, its factors and its files."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_als.data import synthetic as generate
from dask_als.data.synthetic import (
    MOVIELENS_25M,
    MOVIELENS_SMALL,
    GenerateSettings,
    chunks,
    generate_chunk,
    true_factors,
    write_ratings,
)
from dask_als.errors import InputError

TINY = GenerateSettings(n_users=200, n_items=150, n_ratings=6_000, rank=3)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(generate, "CHUNK_RATINGS", 1_000)


def all_ratings(of: GenerateSettings) -> pa.Table:
    return pa.concat_tables(generate_chunk(of, chunk) for chunk in chunks(of))


def counts(table: pa.Table, column: str) -> np.ndarray:
    return np.unique(table[column].to_numpy(), return_counts=True)[1]


@pytest.fixture(scope="module")
def movielens_small() -> pa.Table:
    return all_ratings(MOVIELENS_SMALL)


def test_small_preset_has_movielens_counts(movielens_small):
    of_users, of_items = counts(movielens_small, "userId"), counts(movielens_small, "movieId")
    assert (len(of_users), len(of_items), len(movielens_small)) == (610, 9_724, 100_836)
    assert of_users.min() == 20
    assert 60 <= np.median(of_users) <= 100
    assert 1_000 <= of_users.max() <= 5_000
    assert 2 <= np.median(of_items) <= 4
    assert 250 <= of_items.max() <= 420


def test_large_preset_is_shaped_like_movielens_25m():
    plan = chunks(MOVIELENS_25M)
    offsets = generate._user_offsets(MOVIELENS_25M)
    of_users = np.diff(offsets)
    assert of_users.sum() == 25_000_095
    assert of_users.min() >= 20
    assert 65 <= np.median(of_users) <= 80
    assert 15_000 <= of_users.max() <= 45_000
    share = np.sort(counts(generate_chunk(MOVIELENS_25M, plan[3]), "movieId"))
    assert 50 <= share[-1] * len(plan) / 1_000 <= 110


def test_a_chunk_is_sorted_typed_and_without_repeated_pairs(movielens_small):
    assert movielens_small.schema == generate.SCHEMA
    pairs = movielens_small["userId"].to_numpy() * 10**9 + movielens_small["movieId"].to_numpy()
    assert (np.diff(pairs) > 0).all()
    stars = movielens_small["rating"].to_numpy()
    assert set(np.unique(stars)) == {half / 2 for half in range(1, 11)}
    assert 0.9 < stars.std() < 1.1
    times = movielens_small["timestamp"].to_numpy()
    assert times.min() >= generate.FIRST_SECOND
    assert times.max() < generate.LAST_SECOND


def test_item_ids_have_holes_and_do_not_follow_popularity(movielens_small):
    ids, of_items = np.unique(movielens_small["movieId"].to_numpy(), return_counts=True)
    assert ids[-1] > 2 * len(ids)
    assert abs(np.corrcoef(ids, of_items)[0, 1]) < 0.1


def test_plan_covers_users_and_ratings_once_and_is_plain_integers(small_chunks):
    plan = chunks(TINY)
    assert len(plan) >= 5
    assert [chunk.number for chunk in plan] == list(range(len(plan)))
    assert plan[0].first_user == plan[0].first_rating == 0
    assert plan[-1].stop_user == TINY.n_users
    assert plan[-1].stop_rating == TINY.n_ratings
    for before, after in itertools.pairwise(plan):
        assert before.stop_user == after.first_user
        assert before.stop_rating == after.first_rating
    assert all(type(value) is int for chunk in plan for value in chunk)


def test_chunks_come_out_the_same_in_any_order_and_with_nothing_cached(small_chunks):
    plan = chunks(TINY)
    forward = [generate_chunk(TINY, chunk) for chunk in plan]
    generate._catalogue.cache_clear()
    generate._user_offsets.cache_clear()
    backward = [generate_chunk(TINY, chunk) for chunk in reversed(plan)]
    assert forward == backward[::-1]
    for chunk, table in zip(plan, forward, strict=True):
        users = table["userId"].to_numpy()
        assert (users.min(), users.max()) == (chunk.first_user + 1, chunk.stop_user)
        assert len(table) == chunk.stop_rating - chunk.first_rating


def test_seed_changes_everything():
    first, second = (
        all_ratings(GenerateSettings(n_users=50, n_items=60, n_ratings=900, seed=seed))
        for seed in (0, 1)
    )
    for column in ("movieId", "rating", "timestamp"):
        assert first[column] != second[column]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_valid_settings_give_exactly_their_counts(data):
    n_users = data.draw(st.integers(1, 60))
    n_items = data.draw(st.integers(1, 60))
    fewest = max(n_users, n_items)
    n_ratings = data.draw(st.integers(fewest, max(fewest, n_users * n_items // 2)))
    of = GenerateSettings(n_users=n_users, n_items=n_items, n_ratings=n_ratings, rank=1)
    table = all_ratings(of)
    assert len(table) == n_ratings
    assert len(counts(table, "userId")) == n_users
    assert len(counts(table, "movieId")) == n_items
    assert table.group_by(["userId", "movieId"]).aggregate([]).num_rows == n_ratings


def test_ratings_without_noise_are_the_rounded_true_factors(small_chunks):
    of = GenerateSettings(n_users=200, n_items=150, n_ratings=6_000, rank=3, noise=0)
    truth, table = true_factors(of), all_ratings(of)
    user = np.searchsorted(truth.user_ids, table["userId"].to_numpy())
    item = np.searchsorted(truth.item_ids, table["movieId"].to_numpy())
    exact = truth.global_mean + truth.user_bias[user] + truth.item_bias[item]
    exact = exact + (truth.user_factors[user] * truth.item_factors[item]).sum(axis=1)
    error = np.abs(table["rating"].to_numpy() - np.clip(exact, 0.5, 5))
    assert error.max() <= 0.25 + 1e-5
    assert truth.user_factors.shape == (200, 3)
    assert truth.item_factors.shape == (150, 3)


def test_noise_is_what_the_true_factors_leave():
    truth, table = true_factors(MOVIELENS_SMALL), all_ratings(MOVIELENS_SMALL)
    user = np.searchsorted(truth.user_ids, table["userId"].to_numpy())
    item = np.searchsorted(truth.item_ids, table["movieId"].to_numpy())
    exact = truth.global_mean + truth.user_bias[user] + truth.item_bias[item]
    exact = exact + (truth.user_factors[user] * truth.item_factors[item]).sum(axis=1)
    inner = (exact > 2) & (exact < 3.5)
    rounding = 0.25 / np.sqrt(3)
    spread = (table["rating"].to_numpy() - exact)[inner].std()
    assert spread == pytest.approx(np.hypot(MOVIELENS_SMALL.noise, rounding), rel=0.03)


def test_popular_items_are_popular_with_light_and_heavy_users_alike():
    """Both ways of drawing items, one by one and by a race, follow the same weights."""
    of = GenerateSettings(n_users=2_000, n_items=400, n_ratings=80_000, rank=1)
    catalogue = generate._catalogue(of)
    nothing_dealt = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    two_each = np.full(40_000, 2)
    assert 0 < generate._draws_for_distinct(catalogue, two_each)[0] <= 100
    rng = np.random.default_rng(0)
    by_draws = generate._draw_items(rng, catalogue, two_each, nothing_dealt)[1]
    race = np.argsort(rng.standard_exponential((40_000, 400)) / catalogue.weight, axis=1)[
        :, :2
    ].ravel()
    observed = np.bincount(by_draws, minlength=400)
    expected = np.bincount(race, minlength=400)
    z = (observed - expected) / np.sqrt(np.maximum(observed + expected, 1))
    assert np.abs(z).max() < 4.5
    assert 0.8 < z.std() < 1.2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_users": 0}, "users is 0; give at least 1"),
        ({"n_items": -3}, "items is -3; give at least 1"),
        ({"rank": 0}, "rank is 0; give at least 1"),
        ({"seed": -1}, "seed is -1: give an integer from 0"),
        ({"noise": -0.5}, "noise is -0.5: give a finite number"),
        ({"noise": float("nan")}, "noise is nan: give a finite number"),
        ({"n_ratings": 199}, "ratings is 199: give at least 200"),
        ({"n_ratings": 15_001}, "ratings is 15001: give at most 15000"),
    ],
)
def test_settings_out_of_range_say_what_to_give(changed, message):
    given_settings = {"n_users": 200, "n_items": 150, "n_ratings": 6_000} | changed
    with pytest.raises(InputError, match=message):
        GenerateSettings(**given_settings)


def test_parquet_folder_and_csv_hold_the_same_ratings(small_chunks, tmp_path):
    write_ratings(TINY, tmp_path / "ratings")
    write_ratings(TINY, tmp_path / "ratings.csv")
    assert len(list((tmp_path / "ratings").iterdir())) == len(chunks(TINY))
    with open(tmp_path / "ratings.csv") as file:
        assert file.readline() == "userId,movieId,rating,timestamp\n"
    parquet = pyarrow.dataset.dataset(tmp_path / "ratings").to_table()
    csv = pyarrow.csv.read_csv(tmp_path / "ratings.csv").cast(generate.SCHEMA)
    assert parquet == csv == all_ratings(TINY)


@pytest.mark.parametrize("name", ["ratings", "ratings.csv"])
def test_existing_path_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_ratings(TINY, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["ratings", "ratings.csv"])
def test_broken_run_leaves_nothing_behind(small_chunks, tmp_path, monkeypatch, name):
    def break_at_the_third(of, chunk):
        if chunk.number == 2:
            raise KeyboardInterrupt
        return generate_chunk(of, chunk)

    monkeypatch.setattr(generate, "generate_chunk", break_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_ratings(TINY, tmp_path / name)
    assert os.listdir(tmp_path) == []
