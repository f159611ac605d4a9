"""What files that others made may not make us do."""

import hashlib
import io
import json
import logging
import os
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_als.core import checksums, json_files, limits, table_files
from dask_als.core.executor import SerialExecutor
from dask_als.core.limits import ParquetLimit, is_on_same_storage
from dask_als.core.side import USERS
from dask_als.data.block_files import read_block
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.data.titles import TitleFile, read_titles
from dask_als.errors import InputError
from dask_als.model import manifest as model_manifest
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train


@pytest.fixture
def made(tmp_path):
    """A dataset and a model of it."""
    (tmp_path / "source").mkdir()
    lines = [f"{user},{item},{1 + (user * item) % 5}" for user in range(9) for item in range(7)]
    ratings = "\n".join(["userId,movieId,rating", *lines])
    (tmp_path / "source" / "ratings.csv").write_text(ratings)
    titles = "\n".join(["movieId,title", *(f"{item},film {item}" for item in range(7))])
    (tmp_path / "source" / "movies.csv").write_text(titles)
    dataset, model = str(tmp_path / "dataset"), str(tmp_path / "model")
    settings = PrepareSettings(partitions=2)
    prepare(str(tmp_path / "source"), dataset, SerialExecutor(), settings=settings)
    train(open_dataset(dataset), model, TrainSettings(rank=2, epochs=1), SerialExecutor())
    return tmp_path


def change(path, changes):
    """Change a manifest as a stranger would: so that its checksum is right."""
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    for key, value in changes.items():
        *above, name = [int(part) if part.isdecimal() else part for part in key.split(".")]
        place = manifest
        for part in above:
            place = place[part]
        place[name] = value
    text = json.dumps(manifest, sort_keys=True)
    manifest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("path", "other", "same"),
    [
        ("/a/ds", "/b/model", True),
        ("/a/ds", "model", True),
        ("file:///a/ds", "/b/model", True),
        ("s3://one/ds", "s3://one/models/m", True),
        ("s3a://one/ds", "s3://one/models/m", True),
        ("gcs://one/ds", "gs://one/m", True),
        ("s3://one/ds", "s3://another/m", False),
        ("s3://one/ds", "gs://one/m", False),
        ("s3://one/ds", "/m", False),
        ("/ds", "s3://one/m", False),
        ("http://here/ds", "/m", False),
        ("http://here/ds", "http://here/m", False),
        ("https://here/ds", "https://here/m", False),
        ("ftp://here/ds", "/m", False),
        ("hf://datasets/a/b", "hf://datasets/c/d", False),
        ("data:text/plain,hello", "/m", False),
        ("simplecache::http://here/ds", "/m", False),
        ("zip://ds::/a.zip", "/m", False),
    ],
)
def test_what_is_on_the_same_storage(path, other, same):
    assert is_on_same_storage(path, other) is same


def test_a_model_makes_us_connect_to_nowhere(made, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/ds"
        change(made / "model" / "model.json", {"dataset.path": url})
        with caplog.at_level(logging.WARNING):
            model = ALSModel.load(str(made / "model"))
        with pytest.raises(TimeoutError):
            server.accept()
    assert model.dataset is None
    (said,) = caplog.messages
    assert url in said
    assert "--dataset" in said
    assert ALSModel.load(str(made / "model"), str(made / "dataset")).dataset is not None


def test_a_model_beside_its_dataset_finds_it(made, caplog):
    assert ALSModel.load(str(made / "model")).dataset is not None
    assert caplog.messages == []


FILES = [
    ("dataset", "manifest.json"),
    ("dataset", "users.parquet"),
    ("dataset", "items.parquet"),
    ("dataset", "by_user/part-00000.parquet"),
    ("dataset", "by_user"),
    ("model", "model.json"),
    ("model", "history.jsonl"),
    ("model", "users/part-00000.parquet"),
    ("model", "items"),
]


def read_all(kind, path):
    """Read all files of a dataset or a model."""
    if kind == "model":
        ALSModel.load(path)
        return
    dataset = open_dataset(path)
    for number, partition in enumerate(dataset.users.partitions):
        read_block(path, USERS, number, partition)
    dataset.read_rows(USERS)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_link_out_of_a_directory_is_not_followed(kind, name, made):
    place = made / kind / name
    place.rename(made / "elsewhere")
    place.symlink_to(made / "elsewhere")
    with pytest.raises(InputError, match=r"is a link that leads out of .*; copy .* cp -rL"):
        read_all(kind, str(made / kind))


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_link_within_a_directory_is_followed(kind, name, made):
    place = made / kind / name
    place.rename(made / kind / "moved")
    place.symlink_to(made / kind / "moved")
    read_all(kind, str(made / kind))


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_a_directory_may_be_a_link_itself(kind, made):
    (made / "link").symlink_to(made / kind)
    read_all(kind, str(made / "link"))


def test_a_pipe_is_not_waited_for(made):
    (made / "model" / "history.jsonl").unlink()
    os.mkfifo(made / "model" / "history.jsonl")
    with pytest.raises(InputError, match=r"history\.jsonl is not a file"):
        ALSModel.load(str(made / "model"))


HUGE = 10**12


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("dataset", {"users.partitions.1.stop": HUGE, "items.partitions.0.n_columns": HUGE,
                     "items.partitions.1.n_columns": HUGE}),
        ("model", {"users.partitions.1.stop": HUGE}),
        ("model", {"rank": 10**9}),
        ("model", {"rank": 10**9, "settings.rank": 10**9}),
        ("model", {"rank": 2 * 10**9, "samples": 10**9}),
        ("model", {"samples": "2"}),
        ("model", {"dataset": {"path": 5, "fingerprint": "a"}}),
    ],
)  # fmt: skip
def test_counts_of_a_manifest_are_checked_before_memory_is_taken(kind, changes, made):
    name = {"dataset": "manifest.json", "model": "model.json"}[kind]
    change(made / kind / name, changes)
    with pytest.raises(InputError):
        read_all(kind, str(made / kind))


def test_ratings_are_counted_before_they_are_read(made):
    dataset = open_dataset(str(made / "dataset"))
    partition = dataset.users.partitions[0]
    path = made / "dataset" / "by_user" / "part-00000.parquet"
    many = pa.table(
        {name: pa.array(np.zeros(1000, kind)) for name, kind in
         (("user", "int32"), ("item", "int32"), ("rating", "float32"))}
    )  # fmt: skip
    pq.write_table(many, path)
    part = type(partition)(**{**partition.__dict__, "crc32": checksums.crc32_of(str(path))})
    with pytest.raises(InputError, match=f"1,000 rows instead of {part.ratings}"):
        read_block(dataset.path, USERS, 0, part)


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(limits, "_SLACK_BYTES", 1 << 16)


def written(path, table, **options):
    """Write a Parquet file and return its path and size."""
    pq.write_table(table, path, compression="zstd", **options)
    return str(path), path.stat().st_size


def test_a_column_that_inflates_is_not_read(small_limits, tmp_path):
    table = pa.table({"a": np.zeros(10**6)})
    path, _ = written(tmp_path / "a.parquet", table, use_dictionary=False)
    assert table_files.read_parquet(path, limit=ParquetLimit(10**6, 8)).num_rows == 10**6
    with pytest.raises(InputError, match=r"would take 8,[0-9,]* in memory"):
        table_files.read_parquet(path, ["a"], limit=ParquetLimit(None, 1))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_a_text_that_is_stored_once_and_repeated_is_not_read(kind, small_limits, tmp_path):
    indices, dictionary = pa.array(np.zeros(10**4, np.int32)), pa.array(["x" * 10**4])
    texts = pa.DictionaryArray.from_arrays(indices, dictionary)
    bomb = pa.table({"id": texts, "count": np.arange(10**4)})
    path, size = written(tmp_path / "bomb.parquet", bomb, store_schema=False)
    assert size < 10**5
    limit = ParquetLimit(10**4, 100)
    with pytest.raises(InputError, match="would take 100,000,000 in memory"):
        table_files.read_parquet(path, limit=limit)
    with pytest.raises(InputError, match="would take 100,000,000 in memory"):
        table_files.read_parquet(path, ["id"], limit=limit)
    assert table_files.read_parquet(path, ["count"], limit=limit).num_rows == 10**4


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.struct({"a": pa.string()}), pa.list_(pa.float32(), 10**6)]
)
def test_lists_that_do_not_belong_there_are_not_read(kind, tmp_path):
    table = pa.table({"a": pa.array([None], kind), "b": [1]})
    path, _ = written(tmp_path / "a.parquet", table)
    with pytest.raises(InputError, match="is not what the manifest says: a is "):
        table_files.read_parquet(path, limit=ParquetLimit(1, 1000))
    assert table_files.read_parquet(path, ["b"], limit=ParquetLimit(1, 1000)).num_rows == 1


def test_texts_of_people_are_read(small_limits, tmp_path):
    titles = pa.array([f"film number {number} " * 3 for number in range(10**5)])
    table = pa.table({"title": titles, "id": np.arange(10**5)})
    path, _ = written(tmp_path / "a.parquet", table)
    assert table_files.read_parquet(path, limit=ParquetLimit(10**5, 1)) == table


def test_more_rows_than_fit_into_a_file(small_limits, tmp_path):
    path, _ = written(tmp_path / "a.parquet", pa.table({"a": np.zeros(10**6)}))
    with pytest.raises(InputError, match="claims 1,000,000 rows"):
        table_files.check_parquet_rows(path, ParquetLimit(10**6, 10**6))


@pytest.mark.parametrize("suffix", ["zip", "gz"])
def test_titles_that_inflate_are_not_read(suffix, small_limits, tmp_path):
    import gzip

    text = b"movieId,title\n" + b"1," + b"x" * 10**7 + b"\n"
    path = tmp_path / f"movies.csv.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("movies.csv", text)
    else:
        path.write_bytes(gzip.compress(text))
    member = "movies.csv" if suffix == "zip" else None
    with pytest.raises(InputError, match="holds a text of more than"):
        read_titles(TitleFile(str(path), member, "movieId", "title"))


READ_TITLES = """
import resource, sys
from dask_als.data.titles import TitleFile, read_titles
from dask_als.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_titles(TitleFile(sys.argv[1], "movies.csv", "movieId", "title"))
except InputError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.slow
def test_titles_that_inflate_take_bounded_memory(tmp_path):
    path = tmp_path / "movies.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("movies.csv", "w") as file,
    ):
        file.write(b"movieId,title\n1,")
        for _ in range(600):
            file.write(b"x" * (1 << 20))
    command = [sys.executable, "-c", READ_TITLES, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # At most 64 MiB and 50 times the file's 0.6 MB, and a copy of it.
    assert int(done.stdout) < 250


def test_no_more_of_a_text_is_read_than_is_allowed(small_limits):
    endless = io.BytesIO(b"x" * 10**6)
    with pytest.raises(InputError):
        limits.read_text(endless, "a", 10)
    assert endless.tell() < 10**5


def test_a_manifest_without_end(monkeypatch, made):
    monkeypatch.setattr(json_files, "MOST_JSON_BYTES", 100)
    with pytest.raises(InputError, match="longer than 100 bytes"):
        model_manifest.read_manifest(str(made / "model"))
