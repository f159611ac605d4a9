import pickle

from dask_als.core.side import ITEMS, SIDES, USERS, side_named


def test_each_side_is_the_others_other():
    assert USERS.other is ITEMS
    assert ITEMS.other is USERS


def test_a_side_is_the_same_object_after_a_trip_between_processes():
    for side in SIDES:
        assert pickle.loads(pickle.dumps(side)) is side
        assert side_named(side.name) is side


def test_where_ratings_are():
    assert [side.ratings_directory for side in SIDES] == ["by_user", "by_item"]
