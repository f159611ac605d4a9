import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.data import block_ids

NARROW = st.lists(st.integers(-5, 40), min_size=1, max_size=60)
WIDE = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5), min_size=1, max_size=60)
LARGE = st.lists(st.integers(2**63, 2**64 - 1), min_size=1, max_size=60)
NEAR_THE_TOP = st.lists(st.integers(2**64 - 9, 2**64 - 1), min_size=1, max_size=60)
TEXT = st.lists(st.sampled_from(["b", "é", "a", "007", "7"]), min_size=1, max_size=60)
IDS = st.one_of(
    st.one_of(NARROW, WIDE).map(lambda ids: pa.array(ids, pa.int64())),
    st.one_of(LARGE, NEAR_THE_TOP, st.lists(st.integers(0, 9), min_size=1)).map(
        lambda ids: pa.array(ids, pa.uint64())
    ),
    TEXT.map(lambda ids: pa.array(ids, pa.string())),
)


def counts_of(table):
    return dict(zip(table["id"].to_pylist(), table["count"].to_pylist(), strict=True))


@given(IDS)
def test_ids_are_counted(ids):
    table = block_ids.counted(block_ids.encoded(ids), ids.type)
    expected = {name: ids.to_pylist().count(name) for name in set(ids.to_pylist())}
    assert table.schema.field("id").type == ids.type
    assert counts_of(table) == expected


@given(st.data())
def test_counts_are_merged_in_the_order_of_ids(data):
    first = data.draw(IDS)
    others = data.draw(st.lists(IDS.filter(lambda ids: ids.type == first.type), max_size=2))
    blocks = [first, *others]
    tables = [block_ids.counted(block_ids.encoded(ids), ids.type) for ids in blocks]
    merged = block_ids.merged(tables)
    every = [name for ids in blocks for name in ids.to_pylist()]
    assert merged["id"].to_pylist() == sorted(set(every), key=lambda name: str(name).encode()
                                              if isinstance(name, str) else name)  # fmt: skip
    assert counts_of(merged) == {name: every.count(name) for name in every}


@given(IDS, st.randoms(use_true_random=False), st.data())
def test_indices_are_places_among_all_ids(ids, random, data):
    known = sorted(set(ids.to_pylist()))
    random.shuffle(known)
    known = known[: data.draw(st.integers(0, len(known)))]
    found = block_ids.indices(block_ids.encoded(ids), pa.array(known, ids.type))
    assert found.dtype == np.int32
    assert found.tolist() == [known.index(i) if i in known else -1 for i in ids.to_pylist()]


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (pa.array([3, 1]), pa.int32()),
        (pa.array([2**40 + 3, 2**40]), pa.int64()),
        (pa.array([2**63 + 3, 2**63], pa.uint64()), pa.uint64()),
        (pa.array([2**31 - 1, 2**31 - 2]), pa.int32()),
        (pa.array([2**31, 2**31 - 2]), pa.int64()),
        (pa.array([0, 2**20]), pa.dictionary(pa.int32(), pa.int64())),
        (pa.array(["3"]), pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_how_ids_are_stored(ids, kind):
    assert block_ids.encoded(ids).type == kind
