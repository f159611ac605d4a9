import json
import os
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_als.core import checksums, json_files, storage, table_files
from dask_als.errors import InputError


@pytest.fixture
def memory():
    """A file system that cannot rename directories."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    return "memory://somewhere/deep"


def make(path, content):
    storage.make_directory(path)
    json_files.write_json(storage.join(path, "part", "content.json"), content)
    json_files.write_json(storage.join(path, "other.json"), content)


def everything_in(directory):
    return sorted(os.path.relpath(p, directory) for p, _, _ in os.walk(directory))[1:]


def test_names():
    assert storage.join("a/", "b", "c") == "a/b/c"
    assert storage.part_name(7) == "part-00007.parquet"
    assert storage.first_line(ValueError("a\nb")) == "a"
    assert storage.first_line(ValueError()) == "ValueError"


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/") == str(tmp_path / "a")
    assert storage.absolute("file://" + str(tmp_path)) == str(tmp_path)
    assert storage.absolute("memory://a/b/") == "memory:///a/b"


def test_no_such_file_system():
    for function in (storage.absolute, storage.exists, storage.remove, json_files.read_json):
        with pytest.raises(InputError, match="nofs://a cannot be reached"):
            function("nofs://a")


def test_list_directory(tmp_path, memory):
    for directory in (str(tmp_path / "a"), memory):
        assert storage.list_directory(directory) == []
        make(directory, 1)
        names = [os.path.basename(name) for name in storage.list_directory(directory)]
        assert names == ["other.json", "part"]
        assert all(storage.exists(name) for name in storage.list_directory(directory))


def test_nothing_is_written_into_a_directory_that_is_gone(tmp_path):
    json_files.write_json(str(tmp_path / "made" / "a.json"), 1)
    with pytest.raises(FileNotFoundError):
        json_files.write_json(str(tmp_path / "gone" / "deeper" / "a.json"), 1)
    assert everything_in(tmp_path) == ["made"]


def test_json(tmp_path):
    path = str(tmp_path / "a.json")
    json_files.write_json(path, {"ü": [1, 2.5, None]})
    assert json_files.read_json(path) == {"ü": [1, 2.5, None]}
    json_files.write_json_lines(path, [{"a": 1}, {"b": 0.1}])
    assert json_files.read_json_lines(path) == [{"a": 1}, {"b": 0.1}]
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_files.write_json(path, value)


@pytest.mark.parametrize("read", [json_files.read_json, json_files.read_json_lines])
@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b"\0"])
def test_what_is_not_json(tmp_path, read, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"a.json is damaged: not JSON"):
        read(str(path))
    with pytest.raises(InputError, match=r"b.json is missing"):
        read(str(tmp_path / "b.json"))
    with pytest.raises(InputError, match=r"is damaged: .*Is a directory"):
        read(str(tmp_path))


def test_a_manifest_comes_back(tmp_path):
    path = str(tmp_path / "manifest.json")
    value = {"b": [1, {"c": 0.1 + 0.2}], "a": "ü"}
    json_files.write_manifest(path, value, format_version=3)
    assert json_files.read_manifest(path, format_version=3) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(a=2), "was changed after it was written"),
        (lambda m: m["b"].append(1), "was changed after it was written"),
        (lambda m: m.pop("a"), "was changed after it was written"),
        (lambda m: m.update(more=1), "was changed after it was written"),
        (lambda m: m.pop("checksum"), "was changed after it was written"),
        (lambda m: m.update(format_version=4), "has format version 4, and this release reads 3"),
        (lambda m: m.clear(), "has format version None, and this release reads 3"),
    ],
)
def test_a_manifest_that_was_edited(tmp_path, change, message):
    path = tmp_path / "manifest.json"
    json_files.write_manifest(str(path), {"a": 1, "b": [1, 2]}, format_version=3)
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        json_files.read_manifest(str(path), format_version=3)


def test_a_manifest_that_is_something_else(tmp_path):
    json_files.write_json(str(tmp_path / "manifest.json"), [1])
    with pytest.raises(InputError, match="not a JSON object"):
        json_files.read_manifest(str(tmp_path / "manifest.json"), format_version=3)


TABLE = pa.table({"a": list(range(1000)), "b": [f"text {n}" for n in range(1000)]})


@pytest.fixture
def parquet(tmp_path):
    """A file of ten row groups, as a path."""
    path = tmp_path / "a.parquet"
    table_files.write_parquet(str(path), TABLE, row_group_size=100)
    return path


def test_parquet_comes_back(parquet):
    path = str(parquet)
    assert table_files.read_parquet(path).equals(TABLE)
    assert table_files.read_parquet(path, ["b", "a"]).column_names == ["b", "a"]
    assert pq.ParquetFile(path).num_row_groups == 10
    checksum = checksums.crc32_of(path)
    assert table_files.read_parquet(path, crc32=checksum).equals(TABLE)
    with pytest.raises(InputError, match="its CRC-32 differs"):
        table_files.read_parquet(path, crc32=checksum ^ 1)


def test_tables_are_written_one_after_the_other(tmp_path):
    path = str(tmp_path / "a.parquet")
    tables = (TABLE.slice(n, 1) for n in range(5))
    assert table_files.write_parquet_tables(path, tables, TABLE.schema) == checksums.crc32_of(path)
    assert table_files.read_parquet(path).equals(TABLE.slice(0, 5))
    table_files.write_parquet_tables(path, iter([]), TABLE.schema)
    assert table_files.read_parquet(path).schema == TABLE.schema


@pytest.mark.parametrize("rows", [range(1000), range(250, 251), range(99, 301), range(990, 1000)])
def test_a_range_of_rows(parquet, rows):
    table = table_files.read_parquet_rows(
        str(parquet), rows, ["a"], crc32=checksums.crc32_of(str(parquet))
    )
    assert table.to_pydict() == {"a": list(rows)}


def test_parquet_that_is_not_there(tmp_path, parquet):
    missing = str(tmp_path / "b.parquet")
    checksum = checksums.crc32_of(str(parquet))
    for read in (
        lambda: table_files.read_parquet(missing),
        lambda: checksums.crc32_of(missing),
        lambda: table_files.read_parquet_rows(missing, range(3), ["a"], crc32=0),
    ):
        with pytest.raises(InputError, match=r"b.parquet is missing"):
            read()
    for read in (
        lambda: table_files.read_parquet(str(parquet), ["a", "c"]),
        lambda: table_files.read_parquet_rows(str(parquet), range(3), ["c"], crc32=checksum),
        lambda: table_files.read_parquet_rows(
            str(parquet), range(990, 1001), ["a"], crc32=checksum
        ),
    ):
        with pytest.raises(InputError, match=r"a.parquet is damaged"):
            read()


def test_every_flipped_bit_is_found(parquet):
    """By the CRC-32, wherever it is: in a page, its header or the footer."""
    checksum = checksums.crc32_of(str(parquet))
    content = parquet.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        parquet.write_bytes(changed)
        with pytest.raises(InputError, match=r"a.parquet is damaged, or not the file"):
            table_files.read_parquet(str(parquet), crc32=checksum)


def test_a_flipped_bit_in_a_page_is_found_without_a_checksum_of_the_file(parquet):
    metadata = pq.ParquetFile(parquet).metadata.row_group(3).column(1)
    content = bytearray(parquet.read_bytes())
    content[metadata.data_page_offset + metadata.total_compressed_size // 2] ^= 4
    parquet.write_bytes(content)
    # As if it had been changed before it was summed up.
    checksum = checksums.crc32_of(str(parquet))
    rows = partial(table_files.read_parquet_rows, str(parquet), crc32=checksum)
    assert rows(range(100), ["b"]).num_rows == 100
    for read in (
        lambda: table_files.read_parquet(str(parquet)),
        lambda: rows(range(300, 301), ["b"]),
    ):
        with pytest.raises(InputError, match=r"a.parquet is damaged: .*(checksum|CRC)"):
            read()


@pytest.mark.parametrize("n_bytes", [0, 3, 100, 5000, -1])
def test_truncated_parquet(parquet, n_bytes):
    checksum = checksums.crc32_of(str(parquet))
    parquet.write_bytes(parquet.read_bytes()[:n_bytes])
    for read in (
        lambda: table_files.read_parquet(str(parquet)),
        lambda: table_files.read_parquet(str(parquet), crc32=checksum),
        lambda: table_files.read_parquet_rows(str(parquet), range(3), ["a"], crc32=checksum),
    ):
        with pytest.raises(InputError, match=r"a.parquet is damaged"):
            read()


def test_batches(tmp_path):
    path = str(tmp_path / "a.arrow")
    batches = [pa.record_batch({"a": np.arange(n)}) for n in (2, 0, 3)]
    table_files.write_batches(path, batches, batches[0].schema)
    assert [table_files.read_batch(path, n).num_rows for n in range(3)] == [2, 0, 3]


def test_remove(tmp_path, memory):
    for directory in (str(tmp_path / "a"), memory):
        make(directory, 1)
        storage.remove(storage.join(directory, "part", "content.json"))
        assert not storage.exists(storage.join(directory, "part", "content.json"))
        storage.remove(directory)
        storage.remove(directory)
        assert not storage.exists(directory)
    assert everything_in(tmp_path) == []
