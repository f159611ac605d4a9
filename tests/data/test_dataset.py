import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_als.core import checksums, json_files, storage, table_files
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data import dataset
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import (
    RATINGS_SCHEMA,
    Partition,
    is_dataset,
    open_dataset,
)
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.settings.data import PrepareSettings

N_USERS, N_ITEMS, N_PARTS = 12, 9, 3


def prepared(folder, seed=0):
    """Prepare some ratings, a tenth of them held out."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(N_USERS * N_ITEMS)[:90]
    pairs = np.concatenate([pairs, np.arange(N_USERS * N_ITEMS)[:: N_ITEMS + 1]])
    table = pa.table(
        {
            "userId": pairs // N_ITEMS + 100,
            "movieId": pairs % N_ITEMS + 500,
            "rating": rng.integers(1, 11, len(pairs)) / 2,
        }
    )
    folder.mkdir()
    pq.write_table(table, folder / "ratings.parquet")
    return prepare(
        str(folder / "ratings.parquet"),
        str(folder / "dataset"),
        SerialExecutor(),
        settings=PrepareSettings(test_fraction=0.3, partitions=N_PARTS),
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A dataset that no test changes."""
    return prepared(tmp_path_factory.mktemp("dataset") / "a")


@pytest.fixture
def made(template, tmp_path):
    """A dataset for a test to damage."""
    shutil.copytree(template.path, tmp_path / "dataset")
    return open_dataset(str(tmp_path / "dataset"))


def part(made, directory, number):
    return Path(made.path, directory, storage.part_name(number))


def read_all(made):
    """Read all that training and recommending read."""
    made = open_dataset(made.path)
    for side in SIDES:
        made.read_rows(side)
        for number, partition in enumerate(made.table(side).partitions):
            read_block(made.path, side, number, partition)
    for number, partition in enumerate(made.users.partitions):
        read_test_block(made.path, number, partition)


def test_a_block_holds_its_partitions_ratings(template):
    for side in SIDES:
        rows = template.read_rows(side)
        assert rows.column_names == ["id", "count"]
        counts = []
        for number, partition in enumerate(template.table(side).partitions):
            block = read_block(template.path, side, number, partition)
            assert block.rows == partition.rows
            assert len(block.ratings) == partition.ratings
            file = pq.read_table(part(template, side.ratings_directory, number))
            assert block.row_of_rating.tolist() == file[side.singular].to_pylist()
            assert block.indices.tolist() == file[side.other.singular].to_pylist()
            assert block.ratings.tolist() == file["rating"].to_pylist()
            counts += block.counts.tolist()
        assert counts == rows["count"].to_pylist()
        assert sum(counts) == template.n_ratings


def test_a_block_of_held_out_ratings(template):
    blocks = [
        read_test_block(template.path, number, partition)
        for number, partition in enumerate(template.users.partitions)
    ]
    assert sum(len(block.ratings) for block in blocks) == template.n_test > 0


def test_the_manifest_comes_back(made):
    assert open_dataset(made.path) == made
    assert is_dataset(made.path)
    assert made.users.n_rows == N_USERS
    assert made.items.n_rows == N_ITEMS
    assert [len(made.table(side).partitions) for side in SIDES] == [N_PARTS, N_PARTS]
    read_all(made)


def test_where_there_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match=r"there is no dataset at .*nothing; make one with"):
        open_dataset(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"is not a dataset \(no manifest.json\); make one with"):
        open_dataset(str(tmp_path))
    assert not is_dataset(str(tmp_path))


def edited(made, change):
    """Edit the manifest, and put the right checksum in, as somebody hostile would."""
    path = Path(made.path, "manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["checksum"], manifest["format_version"]
    change(manifest)
    json_files.write_manifest(str(path), manifest, format_version=dataset.FORMAT_VERSION)


def test_an_edited_manifest(made):
    path = Path(made.path, "manifest.json")
    path.write_text(path.read_text().replace('"rating_mean": ', '"rating_mean": 1'))
    with pytest.raises(InputError, match=r"manifest.json was changed after it was written"):
        open_dataset(made.path)


def test_another_format_version(made):
    path = Path(made.path, "manifest.json")
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(InputError, match="has format version 99, and this release reads 1"):
        open_dataset(made.path)


def first(manifest):
    return manifest["users"]["partitions"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("users"),
        lambda m: m.pop("fingerprint"),
        lambda m: m.update(more=1),
        lambda m: m.update(users=[]),
        lambda m: m["users"].update(partitions=[]),
        lambda m: m["users"]["partitions"].pop(),
        lambda m: m["users"]["partitions"].pop(0),
        lambda m: m["items"]["partitions"].reverse(),
        lambda m: first(m).update(start=-1),
        lambda m: first(m).update(start="0"),
        lambda m: first(m).update(stop=first(m)["stop"] + 1),
        lambda m: first(m).update(stop=0),
        lambda m: first(m).update(stop=None),
        lambda m: first(m).update(n_columns=10**9),
        lambda m: first(m).update(ratings=first(m)["ratings"] + 1),
        lambda m: first(m).update(test_ratings=first(m)["test_ratings"] + 1),
        lambda m: first(m).pop("stop"),
        lambda m: m.update(n_ratings=7),
        lambda m: m.update(n_test=7),
    ],
)
def test_a_manifest_that_makes_no_matrix(made, change):
    edited(made, change)
    with pytest.raises(InputError, match=r"manifest.json is damaged: .*prepare the dataset again"):
        open_dataset(made.path)


DIRECTORIES = ["by_user", "by_item", "test"]


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_a_missing_part(made, directory):
    part(made, directory, 1).unlink()
    with pytest.raises(InputError, match=f"{directory}/part-00001.parquet is missing"):
        read_all(made)


@pytest.mark.parametrize("name", ["users.parquet", "items.parquet"])
def test_ids_that_are_missing_or_changed(made, template, name):
    path = Path(made.path, name)
    table = pq.read_table(path)
    table_files.write_parquet(str(path), table.set_column(1, "count", pa.array([0] * len(table))))
    with pytest.raises(InputError, match=f"{name} is damaged, or not the file"):
        read_all(made)
    path.unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_all(made)


@pytest.mark.parametrize("directory", DIRECTORIES)
@pytest.mark.parametrize("n_bytes", [0, 10, -10])
def test_a_truncated_part(made, directory, n_bytes):
    path = part(made, directory, 1)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match=f"{directory}/part-00001.parquet is damaged"):
        read_all(made)


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_a_flipped_bit_anywhere(made, directory):
    path = part(made, directory, 2)
    content = path.read_bytes()
    for place in range(0, len(content), 61):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(InputError, match=f"{directory}/part-00002.parquet is damaged"):
            read_all(made)


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_swapped_parts(made, directory):
    paths = [part(made, directory, number) for number in (0, 1)]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged, or not the file that belongs there"):
        read_all(made)


def test_a_part_of_another_dataset(made, tmp_path):
    other = prepared(tmp_path / "other", seed=1)
    shutil.copy(part(other, "by_user", 0), part(made, "by_user", 0))
    with pytest.raises(InputError, match="is damaged, or not the file that belongs there"):
        read_all(made)


def hostile(made, directory, number, table):
    """Replace a part by a table, with the right checksum in the partition."""
    path = str(part(made, directory, number))
    table_files.write_parquet(path, table)
    side = ITEMS if directory == "by_item" else USERS
    partition = made.table(side).partitions[number]
    name = "test_crc32" if directory == "test" else "crc32"
    return side, replace(partition, **{name: checksums.crc32_of(path)})


def with_column(name, change):
    def changed(table):
        place = table.column_names.index(name)
        return table.set_column(place, RATINGS_SCHEMA.field(place), change(table[name].to_numpy()))

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(1), "is not what the manifest says"),
        (lambda t: t.drop_columns("rating"), "is damaged"),
        (lambda t: t.set_column(2, "rating", t["rating"].cast(pa.float64())),
         "is not what the manifest says"),
        (lambda t: t.set_column(1, RATINGS_SCHEMA.field(1), pa.nulls(len(t), pa.int32())),
         "is not what the manifest says"),
        (with_column("item", lambda v: [pa.array([N_ITEMS, *v[1:]], pa.int32())]),
         "is not the expected partition: items are outside range"),
        (with_column("item", lambda v: [pa.array([-1, *v[1:]], pa.int32())]),
         "is not the expected partition: items are outside range"),
        (with_column("user", lambda v: [pa.array(v + 1)]), "is not the expected partition"),
        (with_column("user", lambda v: [pa.array(v - 1)]), "is not the expected partition"),
        (with_column("user", lambda v: [pa.array(v[::-1])]), "is not the expected partition"),
    ],
)  # fmt: skip
def test_a_part_that_kernels_must_not_see(made, change, message):
    table = pq.ParquetFile(part(made, "by_user", 1)).read()
    _, partition = hostile(made, "by_user", 1, change(table))
    with pytest.raises(InputError, match=f"by_user/part-00001.parquet {message}|{message}"):
        read_block(made.path, USERS, 1, partition)


def test_the_checksum_of_training_ratings_is_not_that_of_held_out_ones(made):
    partition = made.users.partitions[0]
    assert partition.crc32 != partition.test_crc32
    with pytest.raises(InputError, match=re.escape("test/part-00000.parquet is damaged")):
        read_test_block(made.path, 0, replace(partition, test_crc32=partition.crc32))


def test_a_partition_is_a_range_of_rows():
    assert Partition(3, 7, ratings=10).rows == range(3, 7)
