import csv
import gzip
import io
import itertools
import json
import os
import random
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support.prepare_oracle as oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core import storage
from dask_als.core.executor import SerialExecutor
from dask_als.data import prepare_tasks, source, text_chunks, user_partitions
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, prepare
from dask_als.errors import InputError, JobError
from dask_als.settings.data import Columns, PrepareSettings

SERIAL = SerialExecutor()
HEADER = ("userId", "movieId", "rating", "timestamp")


def csv_text(records, header=HEADER, line_end="\n"):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=line_end)
    writer.writerow(header)
    writer.writerows([["" if v is None else v for v in record] for record in records])
    return file.getvalue().encode()


def write_source(folder, records, *, kind="csv", n_files=1, line_end="\n"):
    """Write records to files; return them as the oracle takes them."""
    folder.mkdir(exist_ok=True)
    files = {}
    edges = [len(records) * n // n_files for n in range(n_files + 1)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        its = records[start:stop]
        path = folder / f"{number}.{kind}"
        text = csv_text(its, line_end=line_end)
        if kind == "csv":
            path.write_bytes(text)
        elif kind == "csv.gz":
            path.write_bytes(gzip.compress(text))
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("any.csv", text)
        else:
            frame = pd.DataFrame(its, columns=HEADER, dtype="str")
            table = pa.Table.from_pandas(frame, preserve_index=False)
            pq.write_table(table, path, row_group_size=3)
        files[str(path)] = its
    return files


def made(folder, name="dataset", executor=SERIAL, **options):
    columns = options.pop("columns", Columns())
    return prepare(
        str(folder),
        str(Path(folder).parent / name),
        executor,
        columns=columns,
        settings=PrepareSettings(**options),
    )


def check(dataset, expected, *, held_out=None):
    """Compare a dataset's files with what the oracle says."""
    found = oracle.written(dataset.path)
    assert (found.users, found.items) == (expected.users, expected.items)
    assert found.by_user == found.by_item
    assert found.by_user | found.test == expected.kept
    assert not found.by_user.keys() & found.test.keys()
    if held_out is not None:
        assert found.test == held_out
    assert [(row["file"], row["row"]) for row in found.rejected] == expected.rejected
    counts = dataset.source
    assert counts["rows"] == expected.n_rows
    assert counts["train"] == len(found.by_user) == dataset.n_ratings
    assert counts["test"] == len(found.test) == dataset.n_test
    assert counts["rejected"] == len(found.rejected)
    assert counts["duplicates"] == expected.n_merged
    assert counts["rows"] == sum(
        counts[name] for name in ("train", "test", "rejected", "duplicates")
    )
    for side, place in (("users", 0), ("items", 1)):
        ids = getattr(found, side)
        of_id = dict.fromkeys(ids, 0)
        for pair in found.by_user:
            of_id[pair[place]] += 1
        assert found.counts[side] == [of_id[id_] for id_ in ids]
    ratings = list(found.by_user.values())
    assert (dataset.rating_min, dataset.rating_max) == (min(ratings), max(ratings))
    assert np.isclose(dataset.rating_mean, np.mean(ratings, dtype=np.float64), rtol=1e-12)
    assert open_dataset(dataset.path) == dataset


IDS = {
    "small": st.integers(0, 6).map(str),
    "huge": st.sampled_from([str(2**63 + 1), str(2**64 - 1), "0", "17", str(2**63 - 1)]),
    "negative": st.sampled_from(["-5", str(-(2**63)), "0", "007", "7", " 7", "7.0"]),
    "words": st.sampled_from(["a", "b", "é", "NA", "007", "7", 'say "x", y', "1.5", "x;y"]),
    "any": st.sampled_from(["7", "-7", "007", "7.00", "word", str(2**64 - 1), str(2**70), "0x7"]),
}
BAD = st.sampled_from([None, " ", "nan", "inf", "-1e999", "1e39", "bad", "1_0"])
RATINGS = st.sampled_from(["0.5", "3", "4.25", "-1", "1e-3", " 2.0 ", "3.3333333333333333333"])
TIMES = st.integers(0, 10**9).map(str)


@st.composite
def sources(draw):
    """Draw records with distinct times, so that the source's order does not matter."""
    user = IDS[draw(st.sampled_from(sorted(IDS)))]
    item = IDS[draw(st.sampled_from(sorted(IDS)))]
    fine = st.tuples(user, item, RATINGS, TIMES)
    broken = fine | st.tuples(user | st.sampled_from([None, "  ", "total"]), item, BAD, TIMES)
    broken |= st.tuples(user, item, RATINGS, st.sampled_from([None, "never", "now", "nan"]))
    records = draw(
        st.lists(
            draw(st.sampled_from([fine, fine | broken])),
            min_size=1,
            max_size=40,
            unique_by=lambda record: record[3],
        )
    )
    return [draw(fine), *records] if all(r in BAD_TEXTS for _, _, r, _ in records) else records


BAD_TEXTS = {None, " ", "nan", "inf", "-1e999", "1e39", "bad", "1_0"}


def is_usable(record):
    return oracle.expected({"": [record]}).kept


@settings(max_examples=40)
@given(
    records=sources().filter(lambda records: any(map(is_usable, records))),
    duplicates=st.sampled_from(["last", "mean"]),
    split=st.sampled_from([None, "random", "latest"]),
    fraction=st.sampled_from([0.1, 0.5]),
    kinds=st.lists(st.sampled_from(["csv", "csv.gz", "zip"]), min_size=2, max_size=2),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    n_files=st.integers(1, 3),
    n_bytes=st.sampled_from([1, 40, 100, 1000]),
    partitions=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_any_source_in_any_shape(
    tmp_path_factory, records, duplicates, split, fraction, kinds, line_end, n_files, n_bytes,
    partitions, order,
):  # fmt: skip
    """No rating is lost, and only the records count, not how they come."""
    options = {"duplicates": duplicates}
    if split:
        options |= {"split": split, "test_fraction": fraction}
    tmp = tmp_path_factory.mktemp("prepare")
    files = write_source(tmp / "source", records, kind=kinds[0], line_end=line_end)
    # A time that decides nothing is not read.
    has_time = duplicates == "last" or split == "latest"
    expected = oracle.expected(files, has_time=has_time, **options)
    assume(expected.kept)  # The split "latest" needs times.
    if split == "random" and not expected_train(tmp, options):
        return
    dataset = made(tmp / "source", **options)
    held_out = None if split == "random" else expected.test
    check(dataset, expected, held_out=held_out)

    order.shuffle(records)
    files = write_source(tmp / "other", records, kind=kinds[1], n_files=n_files)
    with patch.object(text_chunks, "BLOCK_BYTES", n_bytes):
        other = made(tmp / "other", "other-dataset", partitions=partitions, **options)
    check(other, oracle.expected(files, has_time=has_time, **options), held_out=held_out)
    assert same_content(dataset, other)


def expected_train(tmp, options):
    """Tell whether the random split leaves something to train on."""
    try:
        made(tmp / "source", "trial", **options)
    except InputError as error:
        return "no rating is left to train on" not in str(error)
    return True


def same_content(one, other):
    """Tell whether two datasets are the same but for their partitions, bit for bit."""
    files = ["users.parquet", "items.parquet"]
    assert (one.fingerprint, one.rating_mean) == (other.fingerprint, other.rating_mean)
    assert (one.users.digest, one.items.digest) == (other.users.digest, other.items.digest)
    assert all(
        Path(one.path, file).read_bytes() == Path(other.path, file).read_bytes() for file in files
    )
    for folder in ("by_user", "by_item", "test"):
        tables = [concatenated(dataset, folder) for dataset in (one, other)]
        assert tables[0].equals(tables[1])
    return True


def concatenated(dataset, folder):
    parts = sorted(Path(dataset.path, folder).glob("*"))
    return pa.concat_tables([pq.ParquetFile(part).read() for part in parts] or [pa.table({})])


@settings(max_examples=15)
@given(
    records=st.lists(
        st.tuples(
            st.sampled_from(["a", "007", "7", "NA", None, " "]),
            st.sampled_from(["x", "y", "1"]),
            st.sampled_from(["1", "2.5", "nan", None]),
            TIMES,
        ),
        min_size=1,
        max_size=30,
        unique_by=lambda record: record[3],
    ).filter(lambda records: any(map(is_usable, records))),
    n_files=st.integers(1, 3),
    rows_a_block=st.integers(1, 7),
    partitions=st.integers(1, 5),
)
def test_parquet_in_any_shape(tmp_path_factory, records, n_files, rows_a_block, partitions):
    tmp = tmp_path_factory.mktemp("prepare")
    records = [("text", "text", "1", "-1"), *records]
    files = write_source(tmp / "source", records, kind="parquet", n_files=n_files)
    with patch.object(source, "_ROWS_A_BLOCK", rows_a_block):
        dataset = made(tmp / "source", partitions=partitions)
    check(dataset, oracle.expected(files))


def many_records(n=3000, seed=0):
    rng = random.Random(seed)
    return [
        (str(rng.randrange(80)), str(rng.randrange(60)), str(rng.randrange(1, 11) / 2), str(time))
        for time in range(n)
    ]


@pytest.fixture
def plain(tmp_path):
    """A folder with one CSV file of three thousand records."""
    write_source(tmp_path / "source", many_records())
    return tmp_path / "source"


def test_on_a_cluster_as_in_this_process(plain, client, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 2000)
    options = {"test_fraction": 0.2, "duplicates": "mean"}
    serial = made(plain, **options)
    distributed = made(plain, "distributed", DaskExecutor(client), partitions=5, **options)
    assert same_content(serial, distributed)
    check(distributed, oracle.expected({str(plain / "0.csv"): many_records()}, duplicates="mean"))


@pytest.mark.parametrize("split", ["random", "latest"])
def test_a_split_holds_out_its_share(plain, split):
    dataset = made(plain, test_fraction=0.25, split=split)
    assert 0.2 < dataset.n_test / (dataset.n_test + dataset.n_ratings) < 0.3
    assert dataset.split == {"kind": split, "test_fraction": 0.25, "seed": 0}
    other = made(plain, "other", test_fraction=0.25, split=split, seed=1)
    assert (other.fingerprint == dataset.fingerprint) == (split == "latest")


def test_the_random_split_does_not_depend_on_other_ratings(tmp_path):
    records = many_records()
    write_source(tmp_path / "all", records)
    write_source(tmp_path / "half", records[: len(records) // 2])
    found = [
        oracle.written(made(tmp_path / name, f"{name}-dataset", test_fraction=0.3).path)
        for name in ("all", "half")
    ]
    assert found[1].test.keys() <= found[0].test.keys()
    assert found[1].by_user.keys() <= found[0].by_user.keys()


def test_without_a_split_nothing_is_held_out(plain):
    dataset = made(plain)
    assert (dataset.n_test, dataset.split) == (0, None)
    assert sorted(os.listdir(dataset.path)) == [
        "by_item", "by_user", "items.parquet", "kept", "manifest.json", "users.parquet",
    ]  # fmt: skip
    assert sorted(os.listdir(Path(dataset.path, "kept"))) == [
        "repeated-00000.arrow", "times-00000.arrow",
    ]  # fmt: skip


def test_the_last_in_the_source_wins_without_time(tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 30)
    (tmp_path / "source").mkdir()
    for number in (2, 10):
        records = [("1", "1", str(number)), *[("2", str(n), "1") for n in range(9)]]
        text = csv_text(records, header=HEADER[:3])
        (tmp_path / "source" / f"part.{number}.csv").write_bytes(text)
    dataset = made(tmp_path / "source", partitions=2)
    assert oracle.written(dataset.path).by_user[1, 1] == 10
    assert dataset.source["duplicates"] == 10


def test_the_last_of_many_wins_without_time(tmp_path):
    records = [record[:3] for record in many_records(20_000)]
    (tmp_path / "x.csv").write_bytes(csv_text(records, header=HEADER[:3]))
    files = {"x.csv": [(*record, None) for record in records]}
    check(made(tmp_path / "x.csv", partitions=7), oracle.expected(files, has_time=False))


@pytest.mark.parametrize(
    "changed",
    [
        [("1", "1", "1", "1"), ("1", "2", "2", "2"), ("2", "1", "4", "1")],
        [("1", "1", "1", "1"), ("1", "2", "3", "2"), ("2", "1", "3", "1")],
        [("1", "1", "1", "1"), ("1", "2", "2", "2"), ("3", "1", "3", "1")],
        [("1", "1", "1", "1"), ("1", "3", "2", "2"), ("2", "1", "3", "1")],
        [("1", "1", "1", "2"), ("1", "2", "2", "1"), ("2", "1", "3", "1")],
    ],
    ids=["a rating", "a held-out rating", "a user", "an item", "what is held out"],
)
def test_a_fingerprint_tells_datasets_apart(tmp_path, changed):
    records = [("1", "1", "1", "1"), ("1", "2", "2", "2"), ("2", "1", "3", "1")]
    fingerprints = set()
    for number, its in enumerate((records, changed)):
        write_source(tmp_path / f"{number}", its)
        dataset = made(tmp_path / f"{number}", f"{number}-a", split="latest", test_fraction=0.5)
        assert dataset.n_test == 1
        fingerprints.add(dataset.fingerprint)
    assert len(fingerprints) == 2


def test_of_equal_times_the_last_in_the_source_wins(tmp_path):
    records = [("1", "1", str(n), "5") for n in (1, 2, 3)] + [("1", "1", "9", "4")]
    write_source(tmp_path / "source", records)
    assert oracle.written(made(tmp_path / "source").path).by_user == {(1, 1): 3.0}


def test_duplicates_can_be_an_error(tmp_path):
    write_source(tmp_path / "source", [("a", "x", "1", "1"), ("b", "y", "2", "2")])
    made(tmp_path / "source", duplicates="error")
    records = [("a", "x", "1", "1"), ("b", "y", "2", "2"), ("b", "y", "3", "3")]
    write_source(tmp_path / "other", records)
    with pytest.raises(InputError, match=r"1 ratings .* user 'b' and item 'y'; use --duplicates"):
        made(tmp_path / "other", "other-dataset", duplicates="error")
    assert sorted(os.listdir(tmp_path)) == ["dataset", "other", "source"]


def test_partitions(plain):
    dataset = made(plain, partitions=7)
    for side, n_rows in ((dataset.users, 80), (dataset.items, 60)):
        assert (len(side.partitions), side.n_rows) == (7, n_rows)
        assert sum(part.ratings for part in side.partitions) == dataset.n_ratings
    assert len(made(plain, "more", partitions=1000).users.partitions) == 80


def test_ids_that_are_words_in_one_block_are_words_in_all(tmp_path, monkeypatch):
    """Whatever the other blocks look like: 7.0 and 7 are two users then, or else one."""
    records = [("7.0", "1", "1", "1"), ("7", "1", "2", "2")]
    for kind, n_bytes in itertools.product(["csv", "csv.gz"], [10, 10**6]):
        monkeypatch.setattr(text_chunks, "BLOCK_BYTES", n_bytes)
        name = f"{kind}-{n_bytes}"
        write_source(tmp_path / name, [*records, ("x", "1", "3", "3")], kind=kind)
        assert oracle.written(made(tmp_path / name, f"{name}-a").path).users == ["7", "7.0", "x"]
        write_source(tmp_path / name, [*records, ("", "1", "3", "3")], kind=kind)
        assert oracle.written(made(tmp_path / name, f"{name}-b").path).users == [7]


def test_only_the_chunks_with_ids_of_another_type_are_read_again(tmp_path, monkeypatch):
    folder = tmp_path / "source"
    for number, user in enumerate(["1", "x", "2", str(2**64 - 1)]):
        write_source(folder, [(user, "1", "1", "1")])
        (folder / "0.csv").rename(folder / f"part.{number}.csv")
    read = []
    read_chunk = prepare_tasks.read_chunk
    monkeypatch.setattr(
        prepare_tasks,
        "read_chunk",
        lambda chunk, number, *others: (read.append(number), read_chunk(chunk, number, *others))[1],
    )
    dataset = made(folder)
    assert read == [0, 1, 2, 3, 0, 2, 3]
    assert oracle.written(dataset.path).users == ["1", str(2**64 - 1), "2", "x"]


def test_csv_and_parquet_together(tmp_path):
    write_source(tmp_path / "source", [("007", "1", "1", "1"), ("8", "1", "1", "1")])
    frame = pd.DataFrame(
        {"userId": ["007", "x"], "movieId": [1, 2], "rating": [2, 3], "timestamp": [2, 2]}
    )
    frame.to_parquet(tmp_path / "source" / "b.parquet")
    written = oracle.written(made(tmp_path / "source").path)
    assert written.by_user == {("007", 1): 2.0, ("8", 1): 1.0, ("x", 2): 3.0}


def test_rejected_rows_are_numbered_as_in_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 40)
    folder = tmp_path / "source"
    folder.mkdir()
    good = "1,2,3,4\r\n" * 20
    text = f"{','.join(HEADER)}\r\n{good}1,2,bad,4\r\n\r\n{good}1,2\r\n" + '"1,2,3,4\r\n,2,3,4\r\n'
    for name in ("a.csv", "b.csv"):
        (folder / name).write_bytes(text.encode())
    (folder / "c.csv.gz").write_bytes(gzip.compress(text.encode()))
    dataset = made(folder, partitions=3)
    rejected = oracle.written(dataset.path).rejected
    assert dataset.source["rows"] == 3 * 44
    for name in ("a.csv", "b.csv", "c.csv.gz"):
        its = [row for row in rejected if row["file"] == str(folder / name)]
        assert [(row["row"], row["reason"]) for row in its] == [
            (21, "rating is not a finite number"),
            (42, "2 columns instead of 4: 1,2"),
            (43, 'a quote is out of place or not closed: "1,2,3,4'),
            (44, "user id is missing or unreadable"),
        ]
        assert its[0]["rating"] == "bad"


def test_hostile_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 100)
    (tmp_path / "x.csv").write_bytes(
        b"\xef\xbb\xbfuserId,movieId,rating,timestamp\r\n"
        b"1,2,3,4\n1,\xff\xfe,3,4\r\n\xff,3\n\0,2,3,4\n"
        + b"9," * 10_000
        + b'\n"\n""\n'
        + b"7" * 10_000
        + b"\r1,5,4.5,2020-01-01"
    )
    dataset = made(tmp_path / "x.csv")
    written = oracle.written(dataset.path)
    assert written.users == ["\0", "1"]
    assert written.by_user == {("1", 2): 3.0, ("1", 5): 4.5, ("\0", 2): 3.0}
    assert [row["row"] for row in written.rejected] == [2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (csv_text([]), "has no usable rating; it has no rows"),
        (
            csv_text([("1", "2", "bad", "4"), ("1", "2", "", "4")]),
            "has no usable rating; all 2 rows were rejected, the first because rating is not",
        ),
        (csv_text([], ("user", "item", "rating")), "has no column 'userId' for the user; it has"),
        (csv_text([], [*HEADER, "rating"]), "has several columns 'rating'; rename all but one"),
        (csv_text([], [f"c{n}" for n in range(10_000)]), "c18, c19 and 9,980 more; name yours"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "x.csv").write_bytes(text)
    with pytest.raises(InputError) as raised:
        made(tmp_path / "x.csv")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == ["x.csv"]


def test_the_file_without_the_columns_is_named(tmp_path):
    write_source(tmp_path / "source", many_records(5))
    (tmp_path / "source" / "tags.csv").write_bytes(b"userId,tag\n1,2\n")
    with pytest.raises(InputError, match=r"tags.csv has no column 'movieId' .* has userId, tag;"):
        made(tmp_path / "source")


def test_columns_by_other_names(tmp_path):
    text = csv_text([("1", "x", "5", "7"), ("1", "x", "4", "9")], ("when", "u", "i", "stars"))
    (tmp_path / "x.csv").write_bytes(text)
    columns = Columns(user="u", item="i", rating="stars", time="when")
    assert oracle.written(made(tmp_path / "x.csv", columns=columns).path).by_user == {
        ("x", 5): 7.0,
        ("x", 4): 9.0,
    }
    with pytest.raises(InputError, match="has no column 'at' for the time"):
        made(tmp_path / "x.csv", "other", columns=replace(columns, time="at"))


def test_the_latest_need_a_time(tmp_path):
    (tmp_path / "x.csv").write_bytes(csv_text([("1", "2", "3")], HEADER[:3]))
    with pytest.raises(InputError, match=r"needs a time column; .* has userId"):
        made(tmp_path / "x.csv", split="latest", test_fraction=0.5)


def test_nothing_left_to_train_on(tmp_path):
    write_source(tmp_path / "source", [("1", "2", "3", "4")])
    with pytest.raises(InputError, match="no rating is left to train on"):
        made(tmp_path / "source", test_fraction=0.999999)
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("userId", pa.struct([("a", pa.int64())]), "ids of type struct"),
        ("rating", pa.list_(pa.float64()), "ratings of type list"),
        ("timestamp", pa.duration("s"), "times of type duration"),
    ],
)
def test_columns_that_cannot_be_what_they_should(tmp_path, name, kind, message):
    types = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float32()}
    types = {**types, "timestamp": pa.int64(), name: kind}
    table = pa.table({key: pa.nulls(2, its) for key, its in types.items()})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        made(tmp_path / "x.parquet")
    assert os.listdir(tmp_path) == ["x.parquet"]


def grouplens(folder, titles):
    folder.mkdir()
    records = [("1", "10", "3.5", "1"), ("2", "20", "4", "1"), ("2", "30", "5", "1")]
    (folder / "ratings.csv").write_bytes(csv_text(records))
    (folder / "movies.csv").write_text(titles, encoding="utf-8", newline="")
    return folder


TITLES = 'movieId,title,genres\r\n20,"President, The ""Dave"" (1995)",Comedy\r\n10,Amélie,X\r\n'
READ_TITLES = ["Amélie", 'President, The "Dave" (1995)', None]


def test_titles_beside_the_ratings(tmp_path):
    folder = grouplens(tmp_path / "ml", TITLES)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml/{file.name}")
    for number, path in enumerate((folder, tmp_path / "ml.zip", folder / "ratings.csv")):
        dataset = made(path, str(number))
        assert dataset.has_titles
        items = pq.read_table(Path(dataset.path) / "items.parquet")
        assert items["title"].to_pylist() == READ_TITLES


def test_a_file_beside_the_ratings_that_holds_no_titles_is_no_error(tmp_path):
    folder = grouplens(tmp_path / "ml", "id,name\n1,2\n")
    assert not made(folder).has_titles


def test_titles_that_are_named(tmp_path):
    folder = grouplens(tmp_path / "ml", "movieId;name\n 10.0;A\n20;\nx;X\n10;B\n20;C\n")
    titles = Titles(str(folder / "movies.csv"), "name")
    dataset = prepare(str(folder), str(tmp_path / "a"), SERIAL, titles=titles)
    items = pq.read_table(Path(dataset.path) / "items.parquet")
    assert items["title"].to_pylist() == ["A", "C", None]
    for titles, message in [
        (Titles(str(folder / "movies.csv")), "has no column 'title'"),
        (Titles(str(folder / "none.csv")), "there is no file of titles"),
    ]:
        with pytest.raises(InputError, match=message):
            prepare(str(folder), str(tmp_path / "b"), SERIAL, titles=titles)


def test_titles_of_items_that_are_words(tmp_path):
    (tmp_path / "t.csv").write_text("movieId,title\n007, Bond\n7,Seven\n")
    write_source(tmp_path / "source", [("1", "007", "1", "1"), ("1", "x", "1", "2")])
    titles = Titles(str(tmp_path / "t.csv"))
    dataset = prepare(str(tmp_path / "source"), str(tmp_path / "a"), SERIAL, titles=titles)
    assert dataset.read_rows(source_side := prepare_tasks.ITEMS)["title"].to_pylist() == [
        " Bond", None,
    ]  # fmt: skip
    assert source_side.name == "items"


def test_an_output_that_is_there(plain, tmp_path):
    first = made(plain)
    before = Path(first.path, "manifest.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        made(plain, partitions=3)
    with pytest.raises(InputError, match="no column 'u'"):
        prepare(str(plain), first.path, SERIAL, columns=Columns(user="u"), overwrite=True)
    assert Path(first.path, "manifest.json").read_bytes() == before
    again = prepare(
        str(plain), first.path, SERIAL, settings=PrepareSettings(partitions=3), overwrite=True
    )
    assert len(open_dataset(first.path).users.partitions) == 3
    assert again.fingerprint == first.fingerprint
    assert sorted(os.listdir(tmp_path)) == ["dataset", "source"]


def module_of(name):
    return user_partitions if hasattr(user_partitions, name) else prepare_tasks


STAGES = ["read_chunk", "shuffle_block", "write_user_part", "write_item_part", "check_part",
          "finish_side"]  # fmt: skip


class Failing:
    """A task that fails at its second call, while others are under way on a cluster."""

    # Of the class, for a cluster's tasks have copies of the object.
    calls: ClassVar = {}

    def __init__(self, stage):
        self.stage, self.function = stage, getattr(module_of(stage), stage)
        Failing.calls[stage] = itertools.count()

    def __call__(self, *args):
        if next(Failing.calls[self.stage]) == 1:
            raise ZeroDivisionError("on purpose")
        return self.function(*args)


@pytest.mark.parametrize(
    ("stage", "on_a_cluster"),
    [
        *((stage, False) for stage in STAGES),
        ("shuffle_block", True),
        *(
            pytest.param(stage, True, marks=pytest.mark.slow)
            for stage in STAGES
            if stage != "shuffle_block"
        ),
    ],
)
def test_a_failing_task_leaves_nothing(plain, client, monkeypatch, stage, on_a_cluster):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(module_of(stage), stage, Failing(stage))
    executor = DaskExecutor(client) if on_a_cluster else SERIAL
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        made(plain, executor=executor, partitions=8, test_fraction=0.1)
    while any(client.processing().values()):
        time.sleep(0.01)
    assert os.listdir(plain.parent) == ["source"]


@pytest.mark.parametrize(
    "path_of", ["usable_path", "to_users_path", "to_items_path", "ratings_path", "rows_path"]
)
def test_a_full_disk_leaves_what_was_there(plain, monkeypatch, path_of):
    before = made(plain)
    monkeypatch.setattr(module_of(path_of), path_of, lambda *_: "/dev/full")
    with pytest.raises(JobError, match=r"could not be made: \[Errno 28\] No space left") as raised:
        prepare(str(plain), before.path, SERIAL, overwrite=True)
    assert "\n" not in str(raised.value)
    assert open_dataset(before.path) == before
    assert sorted(os.listdir(plain.parent)) == ["dataset", "source"]


def test_a_directory_removed_meanwhile(plain, monkeypatch):
    shuffle = prepare_tasks.shuffle_block

    def remove_then_shuffle(block, ids, ranges, work, *others):
        storage.remove(os.path.dirname(work))
        shuffle(block, ids, ranges, work, *others)

    monkeypatch.setattr(prepare_tasks, "shuffle_block", remove_then_shuffle)
    with pytest.raises(JobError, match=r"dataset could not be made: .*No such file"):
        made(plain)
    assert os.listdir(plain.parent) == ["source"]


@pytest.mark.parametrize("kind", ["csv.gz", "zip", "parquet"])
def test_a_damaged_source_is_named(tmp_path, kind):
    write_source(tmp_path / "source", many_records(), kind=kind)
    path = tmp_path / "source" / f"0.{kind}"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"0.{kind} cannot be read: "):
        made(tmp_path / "source")
    assert os.listdir(tmp_path) == ["source"]


def loses_a_rating(columns):
    return {name: values[1:] for name, values in columns.items()}


def changes_a_rating(columns):
    columns["rating"] = columns["rating"] + (np.arange(len(columns["rating"])) == 0)
    return columns


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("to-users", loses_a_rating, "ratings were written in total, 3,000 were read"),
        ("to-items", loses_a_rating, "ratings were written by item"),
        ("to-items", changes_a_rating, "by user and by item differ"),
    ],
)
def test_what_is_written_is_checked(plain, monkeypatch, stage, change, message):
    read = prepare_tasks._read_shuffled

    def damaged(paths, number):
        columns = read(paths, number)
        return change(columns) if stage in paths[0] else columns

    monkeypatch.setattr(prepare_tasks, "_read_shuffled", damaged)
    with pytest.raises(JobError, match=message):
        made(plain)
    assert os.listdir(plain.parent) == ["source"]


def test_progress_is_told(plain):
    told = []
    prepare(
        str(plain),
        str(plain.parent / "a"),
        SERIAL,
        settings=PrepareSettings(partitions=2),
        progress=lambda *stage: told.append(stage),
    )
    assert [stage for stage, done, _ in told if done == 0] == [
        "read", "shuffle", "by user", "by item", "check",
    ]  # fmt: skip
    assert all(done <= total for _, done, total in told)


def test_on_another_file_system():
    with storage.opened("memory://prepare/ratings.csv", "wb") as file:
        file.write(csv_text(many_records(300)))
    dataset = prepare(
        "memory://prepare/ratings.csv",
        "memory://prepare/dataset",
        SERIAL,
        settings=PrepareSettings(partitions=3, test_fraction=0.2),
    )
    assert open_dataset("memory://prepare/dataset") == dataset
    assert dataset.source["path"] == "memory:///prepare/ratings.csv"
    again = prepare(
        "memory://prepare/ratings.csv",
        "memory://prepare/dataset",
        SERIAL,
        settings=PrepareSettings(test_fraction=0.2),
        overwrite=True,
    )
    assert again.fingerprint == dataset.fingerprint
    names = [name.rsplit("/", 1)[-1] for name in storage.list_directory("memory://prepare")]
    assert names == ["dataset", "ratings.csv"]


def test_no_code_and_no_path_of_the_work_directory_is_in_a_dataset(plain):
    dataset = made(plain)
    manifest = json.loads(Path(dataset.path, "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert ".partial" not in json.dumps(manifest)
    assert {path.suffix for path in Path(dataset.path).rglob("*") if path.is_file()} == {
        ".json", ".parquet", ".arrow",
    }  # fmt: skip
