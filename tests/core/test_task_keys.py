import pytest
from distributed.utils import key_split
from hypothesis import given
from hypothesis import strategies as st

from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.core.task_keys import TaskKey, TaskKind, parse_unique_key, unique_key

NUMBERS = st.integers(min_value=0, max_value=10**9)
VALUES = {"side": st.sampled_from(SIDES), "epoch": NUMBERS, "number": NUMBERS}
CLIENTS = st.text("0123456789abcdef", min_size=8, max_size=8)


@st.composite
def keys(draw):
    """Keys of all kinds."""
    kind = draw(st.sampled_from(TaskKind))
    return TaskKey(kind, **{field: draw(VALUES[field]) for field in kind.fields})


@given(keys(), CLIENTS, NUMBERS)
def test_parsing_inverts_formatting(key, client, count):
    assert TaskKey.parse(str(key)) == key
    assert parse_unique_key(unique_key(str(key), client, count), client) == key


@given(keys(), keys())
def test_different_keys_have_different_texts(one, other):
    assert (str(one) == str(other)) == (one == other)


@given(st.text("-0123456789users", max_size=20) | st.text())
def test_what_parses_is_formatted_alike(text):
    key = TaskKey.parse(text)
    assert key is None or str(key) == text


@given(keys(), CLIENTS, CLIENTS, NUMBERS)
def test_a_task_of_another_client_is_not_parsed(key, client, other, count):
    parsed = parse_unique_key(unique_key(str(key), other, count), client)
    assert parsed == (key if client == other else None)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (TaskKey(TaskKind.SOLVE, USERS, 12, 3), "solve-users-12-3"),
        (TaskKey(TaskKind.START, ITEMS, number=3), "start-items-3"),
        (TaskKey(TaskKind.READ_TEST, number=0), "read-test-0"),
        (TaskKey(TaskKind.SIDE_FIGURES, USERS), "side-figures-users"),
        (TaskKey(TaskKind.FIGURES, epoch=7), "figures-7"),
    ],
)
def test_keys_are_readable(key, text):
    assert str(key) == text


def test_dask_groups_tasks_by_kind_and_side():
    key = TaskKey(TaskKind.SOLVE, USERS, 12, 3)
    assert key_split(unique_key(str(key), "abcd1234", 17)) == "solve-users"


@pytest.mark.parametrize(
    "text",
    ["", "solve-users-1", "solve-users-01-3", "solve-users-1-3-0", "solve-dogs-1-3", "x-users-1"],
)
def test_other_texts_are_no_keys(text):
    assert TaskKey.parse(text) is None


def test_attributes_that_do_not_fit_the_kind_are_refused():
    with pytest.raises(ValueError, match="a figures task has epoch, not side, epoch"):
        TaskKey(TaskKind.FIGURES, USERS, 1)
    with pytest.raises(ValueError, match="a solve task has side, epoch, number, not side, epoch"):
        TaskKey(TaskKind.SOLVE, USERS, 1)
