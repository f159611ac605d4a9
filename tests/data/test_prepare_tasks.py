import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_als.core import table_files
from dask_als.data import prepare_tasks as tasks
from dask_als.data.clean import REJECTED_SCHEMA


@pytest.mark.parametrize(
    ("kinds", "common"),
    [
        ({pa.int64()}, pa.int64()),
        ({pa.int64(), pa.uint64()}, pa.uint64()),
        ({pa.int64(), pa.string()}, pa.string()),
        ({pa.int64(), pa.uint64(), pa.string()}, pa.string()),
    ],
)
def test_the_type_that_all_ids_can_take(kinds, common):
    assert tasks.common_id_type(frozenset(kinds)) == common


def test_ids_are_merged_in_order():
    one = pa.table({"id": ["b", "é", "a"], "count": [1, 2, 3]})
    other = pa.table({"id": ["a", "Z"], "count": [10, 20]})
    merged = {"id": ["Z", "a", "b", "é"], "count": [20, 13, 1, 2]}
    assert tasks.merged_ids([one, other]).to_pydict() == merged
    assert tasks.merged_ids([other, one]).to_pydict() == merged


def test_ids_that_lie_anywhere_in_memory_are_merged_without_a_warning(capfd):
    def unaligned(numbers):
        content = pa.py_buffer(b"x" + pa.array(numbers, pa.int64()).buffers()[1].to_pybytes())
        return pa.Array.from_buffers(pa.int64(), len(numbers), [None, content.slice(1)])

    tables = [pa.table({"id": unaligned(ids), "count": [1, 1]}) for ids in ([3, 1], [1, 2])]
    assert tasks.merged_ids(tables).to_pydict() == {"id": [1, 2, 3], "count": [2, 1, 1]}
    assert capfd.readouterr().err == ""


def test_a_digest_is_of_the_ids_and_their_order():
    words = pa.array(["x", "ab", "c", "y"])
    digests = [
        tasks._digest(ids)
        for ids in (
            pa.array(["ab", "c"]),
            pa.array(["a", "bc"]),
            pa.array(["c", "ab"]),
            pa.array(["ab"]),
            pa.array(["1", "2"]),
            pa.array([1, 2]),
            pa.array([2, 1]),
            pa.array([1, 2], pa.uint64()),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert tasks._digest(words.slice(1, 2)) == digests[0]
    assert tasks._digest(pa.array([0, 1, 2]).slice(1)) == digests[5]
    assert digests[5] == "731a56362e098e4d96d9df900be13fc60a15dd7537255ec2c81e1e0ee2c1a128"


def test_rejected_rows_are_put_together_in_order(tmp_path):
    files = []
    for number, rows_before in ((0, 0), (1, 100)):
        rows = [{"file": "f", "row": row, "reason": "r"} for row in (1, 5)]
        path = tasks.rejected_path(str(tmp_path), (0, number))
        table_files.write_parquet(path, pa.Table.from_pylist(rows, REJECTED_SCHEMA))
        files.append((path, rows_before))
    target = tmp_path / "rejected.parquet"
    tasks.write_rejected(files, str(target))
    assert pq.read_table(target)["row"].to_pylist() == [1, 5, 101, 105]
    assert pq.read_table(target).schema == REJECTED_SCHEMA
