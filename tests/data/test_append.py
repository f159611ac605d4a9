"""Appending in pieces gives the bits of preparing at once, and replaces a dataset in one step."""

import filecmp
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import support.prepare_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core import json_files
from dask_als.core.exclusive import exclusive
from dask_als.core.executor import SerialExecutor
from dask_als.data import prepare_tasks
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, append, prepare
from dask_als.errors import InputError, JobError
from dask_als.settings.data import Columns, PrepareSettings

SERIAL = SerialExecutor()
HEADER = "userId,movieId,rating,timestamp\n"


def write(path, records, header=HEADER):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(header + "".join(",".join(record) + "\n" for record in records))
    return str(path)


def in_pieces(folder, records, n_pieces):
    """Write records as files 0.csv, 1.csv, … of a folder."""
    edges = [len(records) * n // n_pieces for n in range(n_pieces + 1)]
    return [write(folder / f"{n}.csv", records[edges[n] : edges[n + 1]]) for n in range(n_pieces)]


def files_of(dataset):
    found = Path(dataset).rglob("*")
    return {str(path.relative_to(dataset)) for path in found if path.is_file()}


def assert_same_bits(one, other):
    """Compare all files; of the manifests, all but the paths of sources and what was appended."""
    assert files_of(one) == files_of(other)
    for name in files_of(one) - {"manifest.json"}:
        assert filecmp.cmp(Path(one, name), Path(other, name), shallow=False), name
    manifests = []
    for path in (one, other):
        manifest = json.loads(Path(path, "manifest.json").read_text())
        del manifest["checksum"], manifest["source"]["path"], manifest["growth"]["appended"]
        manifest["source"].pop("test_path", None)
        manifests.append(manifest)
    assert manifests[0] == manifests[1]


def some_records(n=1500, seed=0):
    rng = random.Random(seed)
    return [
        (
            str(rng.randrange(60)),
            str(int(rng.paretovariate(0.5)) % 90),
            str(rng.randrange(1, 11) / 2),
            str(rng.randrange(10**9, 2 * 10**9)),
        )
        for _ in range(n)
    ]


RULES = {
    "last": {},
    "mean, random": {"duplicates": "mean", "test_fraction": 0.2},
    "sum, latest": {"duplicates": "sum", "split": "latest", "test_fraction": 0.3},
    "last, latest": {"split": "latest", "test_fraction": 0.3},
    "time": {"split": "time", "test_from": "2020-01-01"},
    "core": {"least_user_ratings": 3, "least_item_ratings": 4, "test_fraction": 0.1},
    "core, time": {
        "least_item_ratings": 12, "split": "time", "test_from": "1600000000", "duplicates": "mean",
    },
}  # fmt: skip


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    ("n_pieces", "partitions"),
    [
        (3, None),
        pytest.param(1, 3, marks=pytest.mark.slow),
        pytest.param(7, 5, marks=pytest.mark.slow),
    ],
)
def test_in_pieces_as_at_once(tmp_path, rules, n_pieces, partitions):
    chosen = PrepareSettings(partitions=partitions, **rules)
    pieces = in_pieces(tmp_path / "source", [*some_records(), ("x", "", "2", "3")], n_pieces)
    at_once = prepare(str(tmp_path / "source"), str(tmp_path / "once"), SERIAL, settings=chosen)
    dataset = str(tmp_path / "grown")
    prepare(pieces[0], dataset, SERIAL, settings=chosen)
    for piece in pieces[1:]:
        grown = append(piece, dataset, SERIAL)
    assert_same_bits(at_once.path, dataset)
    assert open_dataset(dataset).fingerprint == at_once.fingerprint
    assert at_once.source["duplicates"] > 100
    assert ("filtered" in at_once.source) == any(name.startswith("least") for name in rules)
    if n_pieces > 1:
        assert [its.path for its in grown.growth.appended] == pieces[1:]


@st.composite
def any_records(draw):
    """Draw records whose times, ratings and ids repeat, with unusable ones among them."""
    record = st.tuples(
        st.sampled_from(draw(st.sampled_from([["1", "2", "3"], ["a", "b", "7", "007"]]))),
        st.sampled_from(["1", "2", "3", "4"]),
        st.sampled_from(["1", "2", "0.1", "0.3", "bad"]),
        st.sampled_from(["1", "2", "3", "9"]),
    )
    fine = draw(record.filter(lambda record: record[2] != "bad"))
    return [fine, *draw(st.lists(record, max_size=30))]


@settings(max_examples=30)
@given(
    records=any_records(),
    cuts=st.lists(st.integers(1, 30), max_size=6),
    duplicates=st.sampled_from(["last", "mean", "sum"]),
    split=st.sampled_from([{}, {"split": "latest", "test_fraction": 0.4},
                           {"split": "time", "test_from": "3"}, {"test_fraction": 0.3}]),
    least=st.sampled_from([1, 2]),
    partitions=st.sampled_from([None, 1, 2, 4]),
    has_times=st.booleans(),
)  # fmt: skip
def test_any_records_in_any_pieces(
    tmp_path_factory, records, cuts, duplicates, split, least, partitions, has_times
):
    """The same bits, or the same refusal."""
    tmp = tmp_path_factory.mktemp("append")
    header, columns = HEADER, Columns()
    if not has_times and (not split or ("test_from" not in split and "split" not in split)):
        header = HEADER.replace(",timestamp", "")
        records = [record[:3] for record in records]
    edges = [0, *sorted({min(cut, len(records)) for cut in cuts}), len(records)]
    parts = [records[a:b] for a, b in itertools.pairwise(edges) if a < b]
    pieces = [write(tmp / "s" / f"{n}.csv", its, header) for n, its in enumerate(parts)]
    chosen = PrepareSettings(
        duplicates=duplicates, partitions=partitions, least_user_ratings=least, **split
    )
    dataset, once = str(tmp / "grown"), str(tmp / "once")
    try:
        prepare(pieces[0], dataset, SERIAL, columns=columns, settings=chosen)
        for piece in pieces[1:]:
            append(piece, dataset, SERIAL)
    except InputError:
        return
    prepare(str(tmp / "s"), once, SERIAL, columns=columns, settings=chosen)
    assert_same_bits(once, dataset)


def test_on_a_cluster_with_other_partitions(tmp_path, client):
    chosen = PrepareSettings(test_fraction=0.2, least_user_ratings=9)
    pieces = in_pieces(tmp_path / "source", some_records(), 2)
    prepare(str(tmp_path / "source"), str(tmp_path / "once"), SERIAL, settings=chosen)
    dataset = str(tmp_path / "grown")
    on_cluster = DaskExecutor(client)
    prepare(pieces[0], dataset, on_cluster, settings=PrepareSettings(
        partitions=7, test_fraction=0.2, least_user_ratings=9))  # fmt: skip
    append(pieces[1], dataset, on_cluster, settings=chosen)
    assert_same_bits(tmp_path / "once", dataset)


def test_text_ids_stay_as_they_are_written(tmp_path):
    first = write(tmp_path / "s" / "0.csv", [("a", "1", "1", "1"), ("07", "1", "2", "1")])
    second = write(tmp_path / "s" / "1.csv", [("7", "1", "3", "1"), ("07", "2", "4", "1")])
    prepare(str(tmp_path / "s"), str(tmp_path / "once"), SERIAL)
    prepare(first, str(tmp_path / "d"), SERIAL)
    append(second, str(tmp_path / "d"), SERIAL)
    assert_same_bits(tmp_path / "once", tmp_path / "d")
    assert oracle.written(tmp_path / "d").users == ["07", "7", "a"]


def test_ids_beyond_int64_come_later(tmp_path):
    first = write(tmp_path / "s" / "0.csv", [("1", "1", "1", "1"), ("2", "1", "2", "1")])
    second = write(tmp_path / "s" / "1.csv", [(str(2**63 + 1), "1", "3", "1")])
    prepare(str(tmp_path / "s"), str(tmp_path / "once"), SERIAL)
    prepare(first, str(tmp_path / "d"), SERIAL)
    append(second, str(tmp_path / "d"), SERIAL)
    assert_same_bits(tmp_path / "once", tmp_path / "d")


def test_events_are_counted_on(tmp_path):
    columns = Columns(rating=None)
    chosen = PrepareSettings(duplicates="sum")
    for number in range(2):
        write(tmp_path / "s" / f"{number}.csv", [("1", "1"), ("1", "2"), ("1", "1")],
              "userId,movieId\n")  # fmt: skip
    dataset = str(tmp_path / "d")
    prepare(str(tmp_path / "s" / "0.csv"), dataset, SERIAL, columns=columns, settings=chosen)
    append(str(tmp_path / "s" / "1.csv"), dataset, SERIAL)
    assert oracle.written(dataset).by_user == {(1, 1): 4.0, (1, 2): 2.0}


def test_titles_are_kept_and_looked_up(tmp_path):
    first = write(tmp_path / "0.csv", [("1", "1", "1", "1"), ("1", "2", "2", "1")])
    second = write(tmp_path / "1.csv", [("1", "3", "3", "1"), ("1", "4", "3", "1")])
    write(tmp_path / "a.csv", [("1", "one"), ("2", "two")], "movieId,title\n")
    write(tmp_path / "b.csv", [("2", "zwei"), ("3", "three")], "movieId,title\n")
    dataset = str(tmp_path / "d")
    prepare(first, dataset, SERIAL, titles=Titles(str(tmp_path / "a.csv")))
    grown = append(second, dataset, SERIAL)
    assert grown.read_rows(prepare_tasks.ITEMS)["title"].to_pylist() == ["one", "two", None, None]
    write(tmp_path / "2.csv", [("2", "1", "1", "1")])
    grown = append(str(tmp_path / "2.csv"), dataset, SERIAL, titles=Titles(str(tmp_path / "b.csv")))
    assert grown.read_rows(prepare_tasks.ITEMS)["title"].to_pylist() == [
        "one", "zwei", "three", None,
    ]  # fmt: skip


def test_an_own_test_source_grows_too(tmp_path):
    records = some_records(1000)
    train = in_pieces(tmp_path / "train", records[:700], 3)
    test = in_pieces(tmp_path / "test", records[700:], 2)
    chosen = PrepareSettings(duplicates="mean", least_item_ratings=6, partitions=3)
    once = prepare(
        str(tmp_path / "train"), str(tmp_path / "once"), SERIAL, settings=chosen,
        test=str(tmp_path / "test"),
    )  # fmt: skip
    dataset = str(tmp_path / "d")
    prepare(train[0], dataset, SERIAL, settings=chosen, test=test[0])
    append(train[1], dataset, SERIAL)
    append(train[2], dataset, SERIAL, test=test[1])
    assert_same_bits(once.path, dataset)
    assert once.source["cold"] > 0
    assert once.split == {"kind": "own"}


@pytest.fixture
def grown(tmp_path):
    """A dataset, a source to append to it, and the bytes of all files."""
    pieces = in_pieces(tmp_path / "source", some_records(600), 2)
    dataset = prepare(pieces[0], str(tmp_path / "d"), SERIAL)
    return dataset.path, pieces[1]


def content_of(dataset):
    return {name: Path(dataset, name).read_bytes() for name in files_of(dataset)}


@pytest.mark.parametrize(
    ("options", "records", "message"),
    [
        ({"settings": PrepareSettings(duplicates="mean")}, None,
         "duplicates is 'mean', but .*d was prepared with 'last'; leave it out"),
        ({"settings": PrepareSettings(test_fraction=0.5)}, None, "test-fraction is 0.5, but"),
        ({"columns": Columns(user="u")}, None, "no column 'u' for the user"),
        ({"test": "t.csv"}, None, "--test is t.csv, but .*d was prepared without --test"),
        ({}, [("eve", "1", "1", "1")],
         "user ids are whole numbers in .*d, but not all .*x.csv, for instance 'eve'; prepare"),
        ({}, [("1", "1", "bad", "1")], "no usable rating; all 1 rows were rejected"),
        ({}, [], "it has no rows"),
    ],
)  # fmt: skip
def test_a_refusal_leaves_the_dataset(tmp_path, grown, options, records, message):
    dataset, source = grown
    before = content_of(dataset)
    if records is not None:
        source = write(tmp_path / "bad" / "x.csv", records)
    with pytest.raises(InputError, match=message):
        append(source, dataset, SERIAL, **options)
    assert content_of(dataset) == before


def test_a_source_without_the_time_is_refused(tmp_path, grown):
    source = write(tmp_path / "x.csv", [("1", "1", "2")], "userId,movieId,rating\n")
    with pytest.raises(InputError, match="no column 'timestamp' for the time"):
        append(source, grown[0], SERIAL)


def test_duplicates_are_errors_across_pieces(tmp_path):
    first = write(tmp_path / "0.csv", [("1", "1", "1", "1")])
    dataset = str(tmp_path / "d")
    prepare(first, dataset, SERIAL, settings=PrepareSettings(duplicates="error"))
    with pytest.raises(InputError, match=r"1 ratings repeat a pair .* user 1 and item 1"):
        append(write(tmp_path / "1.csv", [("1", "1", "2", "2")]), dataset, SERIAL)


def test_times_of_another_unit_are_refused(tmp_path, grown):
    source = write(tmp_path / "x.csv", [("1", "1", "2", "2020-01-01")])
    with pytest.raises(InputError, match=r"look like microseconds in .*x.csv, like seconds"):
        append(source, grown[0], SERIAL)


def test_a_dataset_without_what_it_takes_is_refused(grown):
    dataset, source = grown
    manifest = json.loads(Path(dataset, "manifest.json").read_text())
    del manifest["growth"], manifest["checksum"]
    json_files.write_with_checksum(str(Path(dataset, "manifest.json")), manifest)
    with pytest.raises(InputError, match=r"cannot be appended to: .* prepare all ratings anew"):
        append(source, dataset, SERIAL)


@pytest.mark.parametrize("name", ["kept/times-00000.arrow", "kept/repeated-00000.arrow",
                                  "by_user/part-00000.parquet"])  # fmt: skip
def test_a_damaged_file_is_named(grown, name):
    dataset, source = grown
    content = bytearray(Path(dataset, name).read_bytes())
    content[len(content) // 2] ^= 1
    Path(dataset, name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is damaged"):
        append(source, dataset, SERIAL)


def test_one_run_at_a_time(grown):
    dataset, source = grown
    with (
        exclusive(f"{dataset}/manifest.json", "appended to"),
        pytest.raises(InputError, match="d is being appended to by another run; wait for its end"),
    ):
        append(source, dataset, SERIAL)
    append(source, dataset, SERIAL)


def test_a_dataset_that_is_replaced_meanwhile_stays(tmp_path, grown, monkeypatch):
    dataset, source = grown
    write_item_part = prepare_tasks.write_item_part

    def replace_then_write(*args):
        other = write(tmp_path / "other.csv", [("1", "1", "1", "1")])
        monkeypatch.setattr(prepare_tasks, "write_item_part", write_item_part)
        prepare(other, dataset, SERIAL, overwrite=True)
        return write_item_part(*args)

    monkeypatch.setattr(prepare_tasks, "write_item_part", replace_then_write)
    with pytest.raises(JobError, match="was changed by another run meanwhile, so nothing was"):
        append(source, dataset, SERIAL)
    assert open_dataset(dataset).n_ratings == 1


KILLED = """
import os, sys
from dask_als.core import local_files
from dask_als.core.executor import SerialExecutor
from dask_als.data import prepare_tasks
from dask_als.data.prepare import append
stage, source, dataset = sys.argv[1:]
module = local_files if stage == "renameat2" else prepare_tasks
function = getattr(module, stage)
def killed(*args):
    if stage == "renameat2":
        function(*args)
    os.kill(os.getpid(), 9)
setattr(module, stage, killed)
append(source, dataset, SerialExecutor())
"""


@pytest.mark.parametrize(
    "stage",
    [
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("shuffle_block", "finish_side")),
        "renameat2",
    ],
)
def test_killed_it_is_the_old_or_the_new_dataset(tmp_path, grown, stage):
    dataset, source = grown
    before = content_of(dataset)
    ended = subprocess.run([sys.executable, "-c", KILLED, stage, source, dataset], check=False)
    assert ended.returncode == -9
    if stage == "renameat2":
        prepare(str(tmp_path / "source"), str(tmp_path / "once"), SERIAL)
        assert_same_bits(tmp_path / "once", dataset)
    else:
        assert content_of(dataset) == before
        append(source, dataset, SERIAL)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")] or (
        stage == "renameat2"
    )
