import contextlib
import errno
import json
import os
import re
import subprocess
import sys
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_als import storage
from dask_als.errors import InputError, JobError

MANIFEST = "manifest.json"


@pytest.fixture
def memory():
    """A file system that cannot rename directories."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    return "memory://somewhere/deep"


def make(path, content, *, overwrite=False):
    """Make a complete directory."""
    with storage.staged_directory(path, manifest=MANIFEST, overwrite=overwrite) as staging:
        storage.write_json(storage.join(staging, "part", "content.json"), content)
        storage.write_manifest(storage.join(staging, MANIFEST), {}, format_version=1)


def content_of(path):
    return storage.read_json(storage.join(path, "part", "content.json"))


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
    for function in (storage.absolute, storage.exists, storage.remove, storage.read_json):
        with pytest.raises(InputError, match="nofs://a cannot be reached"):
            function("nofs://a")


def test_list_directory(tmp_path, memory):
    for directory in (str(tmp_path / "a"), memory):
        assert storage.list_directory(directory) == []
        make(directory, 1)
        names = [os.path.basename(name) for name in storage.list_directory(directory)]
        assert names == ["manifest.json", "part"]
        assert all(storage.exists(name) for name in storage.list_directory(directory))


def test_nothing_is_written_into_a_directory_that_is_gone(tmp_path):
    storage.write_json(str(tmp_path / "made" / "a.json"), 1)
    with pytest.raises(FileNotFoundError):
        storage.write_json(str(tmp_path / "gone" / "deeper" / "a.json"), 1)
    assert everything_in(tmp_path) == ["made"]


def test_json(tmp_path):
    path = str(tmp_path / "a.json")
    storage.write_json(path, {"ü": [1, 2.5, None]})
    assert storage.read_json(path) == {"ü": [1, 2.5, None]}
    storage.write_json_lines(path, [{"a": 1}, {"b": 0.1}])
    assert storage.read_json_lines(path) == [{"a": 1}, {"b": 0.1}]
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            storage.write_json(path, value)


@pytest.mark.parametrize("read", [storage.read_json, storage.read_json_lines])
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
    path = str(tmp_path / MANIFEST)
    value = {"b": [1, {"c": 0.1 + 0.2}], "a": "ü"}
    storage.write_manifest(path, value, format_version=3)
    assert storage.read_manifest(path, format_version=3) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(a=2), "was changed after it was written"),
        (lambda m: m["b"].append(1), "was changed after it was written"),
        (lambda m: m.pop("a"), "was changed after it was written"),
        (lambda m: m.update(more=1), "was changed after it was written"),
        (lambda m: m.pop("checksum"), "was changed after it was written"),
        (lambda m: m.update(format_version=4), "is of format version 4, this release reads 3"),
        (lambda m: m.clear(), "is of format version None, this release reads 3"),
    ],
)
def test_a_manifest_that_was_edited(tmp_path, change, message):
    path = tmp_path / MANIFEST
    storage.write_manifest(str(path), {"a": 1, "b": [1, 2]}, format_version=3)
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        storage.read_manifest(str(path), format_version=3)


def test_a_manifest_that_is_something_else(tmp_path):
    storage.write_json(str(tmp_path / MANIFEST), [1])
    with pytest.raises(InputError, match="not a JSON object"):
        storage.read_manifest(str(tmp_path / MANIFEST), format_version=3)


TABLE = pa.table({"a": list(range(1000)), "b": [f"text {n}" for n in range(1000)]})


@pytest.fixture
def parquet(tmp_path):
    """A file of ten row groups, as a path."""
    path = tmp_path / "a.parquet"
    storage.write_parquet(str(path), TABLE, row_group_size=100)
    return path


def test_parquet_comes_back(parquet):
    path = str(parquet)
    assert storage.read_parquet(path).equals(TABLE)
    assert storage.read_parquet(path, ["b", "a"]).column_names == ["b", "a"]
    assert pq.ParquetFile(path).num_row_groups == 10
    checksum = storage.crc32(path)
    assert storage.read_parquet(path, crc32=checksum).equals(TABLE)
    with pytest.raises(InputError, match="its CRC-32 differs"):
        storage.read_parquet(path, crc32=checksum ^ 1)


def test_tables_are_written_one_after_the_other(tmp_path):
    path = str(tmp_path / "a.parquet")
    tables = (TABLE.slice(n, 1) for n in range(5))
    assert storage.write_parquet_tables(path, tables, TABLE.schema) == storage.crc32(path)
    assert storage.read_parquet(path).equals(TABLE.slice(0, 5))
    storage.write_parquet_tables(path, iter([]), TABLE.schema)
    assert storage.read_parquet(path).schema == TABLE.schema


@pytest.mark.parametrize("rows", [range(1000), range(250, 251), range(99, 301), range(990, 1000)])
def test_a_range_of_rows(parquet, rows):
    table = storage.read_parquet_rows(str(parquet), rows, ["a"], crc32=storage.crc32(str(parquet)))
    assert table.to_pydict() == {"a": list(rows)}


def test_parquet_that_is_not_there(tmp_path, parquet):
    missing = str(tmp_path / "b.parquet")
    checksum = storage.crc32(str(parquet))
    for read in (
        lambda: storage.read_parquet(missing),
        lambda: storage.crc32(missing),
        lambda: storage.read_parquet_rows(missing, range(3), ["a"], crc32=0),
    ):
        with pytest.raises(InputError, match=r"b.parquet is missing"):
            read()
    for read in (
        lambda: storage.read_parquet(str(parquet), ["a", "c"]),
        lambda: storage.read_parquet_rows(str(parquet), range(3), ["c"], crc32=checksum),
        lambda: storage.read_parquet_rows(str(parquet), range(990, 1001), ["a"], crc32=checksum),
    ):
        with pytest.raises(InputError, match=r"a.parquet is damaged"):
            read()


def test_every_flipped_bit_is_found(parquet):
    """By the CRC-32, wherever it is: in a page, its header or the footer."""
    checksum = storage.crc32(str(parquet))
    content = parquet.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        parquet.write_bytes(changed)
        with pytest.raises(InputError, match=r"a.parquet is damaged, or not the file"):
            storage.read_parquet(str(parquet), crc32=checksum)


def test_a_flipped_bit_in_a_page_is_found_without_a_checksum_of_the_file(parquet):
    metadata = pq.ParquetFile(parquet).metadata.row_group(3).column(1)
    content = bytearray(parquet.read_bytes())
    content[metadata.data_page_offset + metadata.total_compressed_size // 2] ^= 4
    parquet.write_bytes(content)
    # As if it had been changed before it was summed up.
    rows = partial(storage.read_parquet_rows, str(parquet), crc32=storage.crc32(str(parquet)))
    assert rows(range(100), ["b"]).num_rows == 100
    for read in (
        lambda: storage.read_parquet(str(parquet)),
        lambda: rows(range(300, 301), ["b"]),
    ):
        with pytest.raises(InputError, match=r"a.parquet is damaged: .*(checksum|CRC)"):
            read()


@pytest.mark.parametrize("n_bytes", [0, 3, 100, 5000, -1])
def test_truncated_parquet(parquet, n_bytes):
    checksum = storage.crc32(str(parquet))
    parquet.write_bytes(parquet.read_bytes()[:n_bytes])
    for read in (
        lambda: storage.read_parquet(str(parquet)),
        lambda: storage.read_parquet(str(parquet), crc32=checksum),
        lambda: storage.read_parquet_rows(str(parquet), range(3), ["a"], crc32=checksum),
    ):
        with pytest.raises(InputError, match=r"a.parquet is damaged"):
            read()


def test_batches(tmp_path):
    path = str(tmp_path / "a.arrow")
    batches = [pa.record_batch({"a": np.arange(n)}) for n in (2, 0, 3)]
    storage.write_batches(path, batches, batches[0].schema)
    assert [storage.read_batch(path, n).num_rows for n in range(3)] == [2, 0, 3]


def test_remove(tmp_path, memory):
    for directory in (str(tmp_path / "a"), memory):
        make(directory, 1)
        storage.remove(storage.join(directory, "part", "content.json"))
        assert not storage.exists(storage.join(directory, "part", "content.json"))
        storage.remove(directory)
        storage.remove(directory)
        assert not storage.exists(directory)
    assert everything_in(tmp_path) == []


def test_a_directory_is_complete_or_not_there(tmp_path, memory):
    for path in (str(tmp_path / "a"), memory):
        with (
            contextlib.suppress(KeyboardInterrupt),
            storage.staged_directory(path, manifest=MANIFEST, overwrite=False) as staging,
        ):
            storage.write_json(storage.join(staging, "content.json"), 1)
            assert not storage.exists(path)
            raise KeyboardInterrupt
        assert not storage.exists(path)
        assert not storage.exists(staging)
        make(path, 2)
        assert content_of(path) == 2
        assert len(storage.list_directory(path)) == 2
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_what_is_there_stays(tmp_path, memory):
    for path in (str(tmp_path / "a"), memory):
        make(path, 1)
        with pytest.raises(
            InputError, match="is there already; choose another or give --overwrite"
        ):
            make(path, 2)
        with (
            pytest.raises(ValueError, match="no"),
            storage.staged_directory(path, manifest=MANIFEST, overwrite=True),
        ):
            raise ValueError("no")
        assert content_of(path) == 1
        make(path, 3, overwrite=True)
        assert content_of(path) == 3
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_only_our_own_is_overwritten(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    make(str(path), 1, overwrite=True)
    for text in (None, "[]", "{}", "no"):
        (path / MANIFEST).unlink()
        if text:
            (path / MANIFEST).write_text(text)
        else:
            (path / "mine.txt").write_text("mine")
        with pytest.raises(InputError, match=r"holds something else \(no manifest.json\)"):
            make(str(path), 2, overwrite=True)
        (path / MANIFEST).touch()
    assert content_of(str(path)) == 1
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        make(str(file), 2, overwrite=True)


def test_what_came_meanwhile_stays(tmp_path):
    path = str(tmp_path / "a")
    with (
        pytest.raises(InputError, match="is there already"),
        storage.staged_directory(path, manifest=MANIFEST, overwrite=False),
    ):
        make(path, 1)
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_a_link_is_followed(tmp_path):
    make(str(tmp_path / "real"), 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(str(tmp_path / "link"), 2, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert content_of(str(tmp_path / "real")) == 2
    assert everything_in(tmp_path) == ["real", "real/part"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=re.escape("file/a cannot be written: ")):
        make(str(tmp_path / "file" / "a"), 1)


def test_a_full_disk(tmp_path):
    path = str(tmp_path / "a")
    make(path, 1)
    message = r"a could not be made: \[Errno 28\] No space left on device"
    with (  # noqa: PT012
        pytest.raises(JobError, match=message),
        storage.staged_directory(path, manifest=MANIFEST, overwrite=True) as staging,
    ):
        storage.write_json(storage.join(staging, "a.json"), 1)
        storage.write_json("/dev/full", 1)
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_a_directory_that_is_removed_meanwhile(tmp_path):
    (tmp_path / "deep").mkdir()
    with (  # noqa: PT012
        pytest.raises(JobError, match=r"a could not be made: .*No such file"),
        storage.staged_directory(
            str(tmp_path / "deep" / "a"), manifest=MANIFEST, overwrite=False
        ) as staging,
    ):
        storage.remove(str(tmp_path / "deep"))
        storage.write_json(storage.join(staging, "part", "a.json"), 1)
    assert everything_in(tmp_path) == []


def test_what_was_there_comes_back_if_it_cannot_be_replaced(tmp_path):
    path = str(tmp_path / "a")
    make(path, 1)
    with (
        pytest.raises(JobError, match="a could not be made"),
        storage.staged_directory(path, manifest=MANIFEST, overwrite=True) as staging,
    ):
        os.rename(staging, tmp_path / "elsewhere")
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part", "elsewhere"]


def test_what_was_there_comes_back_if_it_was_moved_away_already(tmp_path, monkeypatch):
    path = str(tmp_path / "a")
    make(path, 1)
    rename = os.rename

    def fail_at_the_last(source, target):
        if target == path and not source.endswith(".old"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_at_the_last)
    with pytest.raises(JobError, match=r"a could not be made: .*No space left"):
        make(path, 2, overwrite=True)
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_nothing_is_left_of_what_is_written_while_it_is_removed(tmp_path, monkeypatch):
    """A task that is still at work cannot bring a removed directory back."""
    directory = tmp_path / "a"
    storage.write_json(str(directory / "one.json"), 1)
    rmtree = storage.shutil.rmtree

    def rmtree_beside_a_task(path, **options):
        with pytest.raises(FileNotFoundError):
            storage.write_json(str(directory / "part" / "two.json"), 1)
        rmtree(path, **options)

    monkeypatch.setattr(storage.shutil, "rmtree", rmtree_beside_a_task)
    storage.remove(str(directory))
    assert everything_in(tmp_path) == []


def test_without_renaming_the_manifest_arrives_last(memory, monkeypatch):
    moved = []
    filesystem = storage.file_system(memory)[0]
    mv = filesystem.mv
    monkeypatch.setattr(filesystem, "mv", lambda one, other: (moved.append(other), mv(one, other)))
    make(memory, 1)
    assert [name.rsplit("/", 1)[-1] for name in moved] == ["content.json", MANIFEST]


def killed_while_making(path):
    """Let a process be killed while it makes a directory."""
    script = (
        "import os, sys; from dask_als import storage; path = sys.argv[1]\n"
        "with storage.staged_directory(path, manifest='m', overwrite=True) as staging:\n"
        "    storage.write_json(storage.join(staging, 'a.json'), 1)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -9


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    path = str(tmp_path / "a")
    killed_while_making(str(tmp_path / "a.b"))
    killed_while_making(path)
    assert sorted(re.sub("[0-9a-f]{8}", "*", name) for name in os.listdir(tmp_path)) == [
        ".a.*.partial",
        ".a.b.*.partial",
    ]
    make(path, 1)
    assert content_of(path) == 1
    (left,) = (name for name in os.listdir(tmp_path) if name != "a")
    assert left.startswith(".a.b.")
    assert sorted(os.listdir(path)) == [MANIFEST, "part"]


def test_what_a_living_run_makes_is_not_removed(tmp_path):
    """Nor what only looks like one of ours."""
    path = str(tmp_path / "a")
    (tmp_path / ".a.01234567.partial").mkdir()
    with storage.staged_directory(path, manifest=MANIFEST, overwrite=True) as staging:
        make(path, 1)
        assert storage.exists(staging)
        storage.write_json(storage.join(staging, MANIFEST), {"format_version": 1})
    assert everything_in(tmp_path) == [".a.01234567.partial", "a"]


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("No locks available")

    path = str(tmp_path / "a")
    killed_while_making(path)
    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    make(path, 1)
    assert content_of(path) == 1
    assert len(os.listdir(tmp_path)) == 2


def test_a_file_that_was_compared_is_compared_again_once_it_has_changed(parquet):
    """Rows of it are read many times, and all of it but once."""
    path = str(parquet)
    checksum = storage.crc32(path)
    storage.read_parquet_rows(path, range(3), ["a"], crc32=checksum)
    other = TABLE.take(list(range(1000))[::-1])
    storage.write_parquet(f"{path}.other", other)
    os.replace(f"{path}.other", path)
    for rows in (range(3), range(997, 1000)):
        with pytest.raises(InputError, match=r"a.parquet is damaged, or not the file"):
            storage.read_parquet_rows(path, rows, ["a"], crc32=checksum)


def test_as_many_rows_as_the_manifest_says(parquet):
    path = str(parquet)
    checksum, n_rows = storage.crc32(path), storage.read_parquet(path).num_rows
    storage.check_parquet(path, crc32=checksum, rows=n_rows)
    for read in (storage.check_parquet, storage.read_parquet):
        with pytest.raises(InputError, match=rf"has {n_rows:,} rows, there should be 10,000,000"):
            read(path, crc32=checksum, rows=10_000_000)


def test_numbers_that_are_none(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": NaN}')
    with pytest.raises(InputError, match=r"a.json is damaged: not JSON \(NaN is no number\)"):
        storage.read_json(str(path))
