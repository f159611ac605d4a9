import gzip
import re
import zipfile
from unittest.mock import patch

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.core import storage
from dask_als.data import csv_text, source, text_chunks
from dask_als.data.source import open_source, read_blocks
from dask_als.data.source_files import listed
from dask_als.data.titles import TitleFile, check_titles, read_titles
from dask_als.errors import InputError
from dask_als.settings.data import Columns

HEADER = b"userId,movieId,rating\n"
COLUMNS = Columns()


def read(path, columns=COLUMNS):
    """Return the columns of a source, its records, and how many blocks they came in."""
    found = open_source(str(path))
    blocks = [raw for chunk in found.chunks for raw in read_blocks(chunk, columns, frozenset())]
    rows = []
    for raw in blocks:
        wrong = dict(raw.malformed)
        its = {int(n): row for n, row in zip(raw.numbers, raw.table.to_pylist(), strict=True)}
        rows += [wrong.get(n) or its[n] for n in range(raw.n_rows)]
    return found.columns, rows, len(blocks)


def users(path):
    return [row["user"] for row in read(path)[1]]


def csv_of(*ids):
    return HEADER + b"".join(b"%d,1,3.5\n" % user for user in ids)


def zip_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def packed(path, text):
    """Write text to a file, compressed as its name says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text))
    elif path.suffix == ".zip":
        zip_of(path, {"any.csv": text})
    else:
        path.write_bytes(text)
    return path


@given(
    lines=st.lists(
        st.sampled_from([b"1,2,3", b"10,20,3.5", b"", b"x,y,z", b"1,2", b'"1",2,3', b"1" * 30]),
        max_size=20,
    ),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    last=st.booleans(),
    n_bytes=st.integers(1, 80),
    suffix=st.sampled_from([".csv", ".csv.gz", ".zip"]),
)
def test_blocks_of_any_size_hold_the_same_records(
    tmp_path_factory, lines, line_end, last, n_bytes, suffix
):
    text = line_end.join([HEADER.strip(), *lines]) + (line_end if last else b"")
    path = packed(tmp_path_factory.mktemp("source") / f"ratings{suffix}", text)

    def texts(rows):
        """As text, for numbers become numbers only if all of a block are."""
        return [
            row if isinstance(row, str) else [str(float(value)) if is_number(value) else value]
            for row in rows
            for value in (row if isinstance(row, str) else row.values())
        ]

    def is_number(value):
        return not isinstance(value, bytes) or re.fullmatch(rb"[0-9.]+", value)

    whole = read(path)[1]
    with (
        patch.object(text_chunks, "BLOCK_BYTES", n_bytes),
        patch.object(text_chunks, "_SCAN_BYTES", 3),
    ):
        assert texts(read(path)[1]) == texts(whole)
    assert len(whole) == sum(line != b"" for line in lines)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".zip"])
def test_small_blocks_are_many(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 64)
    path = packed(tmp_path / f"x{suffix}", csv_of(*range(100)))
    columns, rows, n_blocks = read(path)
    assert columns == ("userId", "movieId", "rating")
    assert [row["user"] for row in rows] == list(range(100))
    assert n_blocks > 10


def test_a_block_holds_about_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 1000)
    path = packed(tmp_path / "x.csv", csv_of(*range(1000)))
    sizes = [chunk.stop - chunk.start for chunk in open_source(str(path)).chunks]
    assert max(sizes) <= 1000
    assert sum(sizes) == path.stat().st_size - len(HEADER)


def test_a_file_is_not_read_twice_for_its_range(tmp_path, monkeypatch):
    """Each range reads its own lines; together they read the file about once."""
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 1000)
    path = packed(tmp_path / "x.csv", csv_of(*range(1000)))
    lengths = []

    def parse(text, *_, stop, **options):
        lengths.append(len(text))
        return csv_text.Parsed(pa.table({}), [], stop)

    monkeypatch.setattr(csv_text, "parse", parse)
    read(path)
    assert sum(lengths) == path.stat().st_size - len(HEADER)


def test_what_is_wrong_with_a_last_line_without_end(tmp_path):
    path = packed(tmp_path / "a.csv", HEADER + b'"1",2,3\n1,2')
    assert read(path)[1][1] == "2 columns instead of 3: 1,2"


def test_header_only(tmp_path):
    assert read(packed(tmp_path / "a.csv", HEADER))[1] == []
    assert read(packed(tmp_path / "b.csv", HEADER.strip()))[1] == []
    assert read(packed(tmp_path / "c.csv.gz", HEADER))[1] == []


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "_LONGEST_LINE_BYTES", 1000)
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 100)
    monkeypatch.setattr(text_chunks, "_SCAN_BYTES", 100)
    for suffix in (".csv", ".csv.gz", ".zip"):
        path = packed(tmp_path / f"a{suffix}", csv_of(1, 2) + b"7" * 2000)
        with pytest.raises(InputError, match=r"a\S+ has a line of more than 1,000 bytes"):
            read(path)


def test_a_long_line_is_a_record(tmp_path):
    long = b"7" * (40 << 20)
    path = packed(tmp_path / "a.csv", csv_of(1) + long + b"\n3,1,3.5\n")
    _, rows, _ = read(path)
    assert [row if isinstance(row, str) else row["user"] for row in rows] == [
        b"1",
        "1 columns instead of 3: " + "7" * 200,
        3,
    ]


def parquet(path, frame, **options):
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame)
    pq.write_table(table, path, **options)
    return path


def frame_of(*ids):
    return pd.DataFrame({"userId": ids, "movieId": 1, "rating": 3.5, "more": "x"})


@pytest.mark.parametrize(("row_group_size", "rows_a_block"), [(3, 7), (100, 7), (5, 5), (7, 100)])
def test_row_groups(tmp_path, monkeypatch, row_group_size, rows_a_block):
    monkeypatch.setattr(source, "_ROWS_A_BLOCK", rows_a_block)
    path = parquet(tmp_path / "x.parquet", frame_of(*range(40)), row_group_size=row_group_size)
    columns, rows, n_blocks = read(path)
    assert columns == ("userId", "movieId", "rating", "more")
    assert [row["user"] for row in rows] == list(range(40))
    assert list(rows[0]) == ["user", "item", "rating"]
    assert n_blocks == -(-40 // min(rows_a_block, max(row_group_size, rows_a_block // 3 * 3)))


def test_row_groups_without_rows(tmp_path):
    table = pa.Table.from_pandas(frame_of(1))
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table)
        writer.write_table(table.slice(0, 0))
    assert users(tmp_path / "a.parquet") == [1]
    with pq.ParquetWriter(tmp_path / "none.parquet", table.schema):
        pass
    assert open_source(str(tmp_path / "none.parquet")).chunks == ()


def test_files_in_the_order_that_their_numbers_say(tmp_path):
    for number in (10, 9, 1):
        parquet(tmp_path / f"part.{number}.parquet", frame_of(number))
    (tmp_path / "_metadata").write_bytes(b"no")
    (tmp_path / ".hidden.parquet").write_bytes(b"no")
    (tmp_path / "README.txt").write_bytes(b"no")
    assert users(tmp_path) == [1, 9, 10]
    assert users(tmp_path / "part.1*.parquet") == [1, 10]


def test_a_folder_of_all_kinds_and_folders(tmp_path):
    (tmp_path / "deeper").mkdir()
    packed(tmp_path / "a.CSV", csv_of(1))
    packed(tmp_path / "b.csv.gz", csv_of(2))
    zip_of(tmp_path / "c.zip", {"any.csv": csv_of(3)})
    parquet(tmp_path / "d.parquet", frame_of(4))
    parquet(tmp_path / "deeper" / "e.pq", frame_of(5))
    (tmp_path / "f.tsv").write_bytes(csv_of(6).replace(b",", b"\t"))
    assert users(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert open_source(str(tmp_path)).columns == ("userId", "movieId", "rating")
    assert len(open_source(str(tmp_path)).files) == 6


def test_columns_are_read_by_name(tmp_path):
    packed(tmp_path / "a.csv", b"rating,x,movieId,userId\n3.5,?,2,1\n")
    packed(tmp_path / "b.csv", b"movieId,userId,rating,y\n2,1,3.5,?\n")
    columns, rows, _ = read(tmp_path)
    assert columns == ("rating", "movieId", "userId")
    assert rows == [{"user": 1, "item": 2, "rating": 3.5}] * 2
    mine = Columns(user="x", item="userId", rating="rating")
    row = {"user": b"?", "item": b"1", "rating": b"3.5"}
    assert read(tmp_path / "a.csv", mine)[1] == [row]


def test_a_name_with_brackets_is_a_name(tmp_path):
    assert users(packed(tmp_path / "a[1].csv", csv_of(7))) == [7]


def test_grouplens_folder(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    packed(folder / "ratings.csv", csv_of(7))
    packed(folder / "movies.csv", b"movieId,title,genres\n1,T,G\n")
    packed(folder / "tags.csv", b"userId,movieId,tag\n1,1,t\n")
    for path in (folder, tmp_path, folder / "ratings.csv"):
        assert users(path) == [7]
        assert open_source(str(path)).titles == (str(folder / "movies.csv"), None)


def test_grouplens_zip(tmp_path):
    path = zip_of(
        tmp_path / "ml.zip",
        {
            "ml/ratings.csv": csv_of(7),
            "ml/movies.csv": "movieId,title\n",
            "ml/tags.csv": "userId,tag\n",
            "__MACOSX/ml/._ratings.csv": "?",
        },
    )
    assert users(path) == [7]
    assert open_source(str(path)).titles == (str(path), "ml/movies.csv")
    other = zip_of(tmp_path / "other.zip", {"ratings.csv": csv_of(8), "movies.txt": "?"})
    assert users(other) == [8]
    assert open_source(str(other)).titles is None


def test_several_files_named_ratings_are_all_read(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        packed(tmp_path / f"{number}" / "ratings.csv", csv_of(number))
    assert users(tmp_path) == [1, 2]
    assert open_source(str(tmp_path)).titles is None
    for number in (1, 2):
        packed(tmp_path / f"{number}" / "movies.csv", b"movieId,title\n")
    assert len(open_source(str(tmp_path)).files) == 4


def test_nothing_beside_a_file_named_ratings_is_overlooked(tmp_path):
    packed(tmp_path / "ratings.csv", csv_of(1))
    packed(tmp_path / "ratings2.csv", csv_of(2))
    assert sorted(users(tmp_path)) == [1, 2]


def test_on_other_file_systems():
    files = {"ratings.csv": csv_of(1, 2), "movies.csv": b"movieId,title\n1,T\n"}
    for name, text in files.items():
        with storage.opened(f"memory://source/a/{name}", "wb") as file:
            file.write(text)
    for path in ("memory://source", "memory://source/a/r*.csv", "memory://source/a/ratings.csv"):
        assert users(path) == [1, 2]
    titles = open_source("memory://source").titles
    assert titles == ("memory:///source/a/movies.csv", None)
    check_titles(TitleFile(*titles, "movieId", "title"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "there is no file or folder at"),
        ("x.csv", b"", "x.csv is empty"),
        ("x.csv.gz", csv_of(1), "x.csv.gz cannot be read: Not a gzipped file"),
        ("x.zip", b"PK\x03\x04 no", "x.zip cannot be read: File is not a zip file"),
        ("x.parquet", csv_of(1), "x.parquet cannot be read: Parquet magic bytes not found"),
        ("x.parquet", b"", "x.parquet is empty"),
        ("x.csv", b"PAR1" + bytes(100), "x.csv is not CSV text in UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / (name or "nothing")
    if name:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        open_source(str(path))


def test_folders_and_archives_without_ratings(tmp_path):
    (tmp_path / "README.txt").write_bytes(b"no")
    for path in (tmp_path, tmp_path / "*.csv"):
        with pytest.raises(InputError, match="holds no file of text or Parquet"):
            open_source(str(path))
    with pytest.raises(
        InputError, match=r"one file of text, or one named ratings\.csv; it holds none"
    ):
        open_source(str(zip_of(tmp_path / "a.zip", {"readme": "no"})))
    with pytest.raises(InputError, match=r"it holds a.csv, b.csv"):
        open_source(str(zip_of(tmp_path / "b.zip", {"a.csv": "no", "b.csv": "no"})))
    with pytest.raises(InputError, match=r"nofs://x cannot be reached"):
        open_source("nofs://x")


def damaged(tmp_path, suffix, how):
    """Write a big enough file, damaged somewhere after its header."""
    ids = range(20_000)
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        parquet(path, frame_of(*ids), compression="gzip")
    else:
        packed(path, csv_of(*ids))
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    if how == "cut":
        del content[middle:]
    else:
        content[middle : middle + 50] = how * 50
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", ["cut", b"\0", b"\xff"])
@pytest.mark.parametrize("suffix", [".csv.gz", ".zip", ".parquet"])
def test_damage_is_found_and_the_file_named(tmp_path, suffix, how):
    path = damaged(tmp_path, suffix, how)
    with pytest.raises(InputError, match=f"{re.escape(str(path))} cannot be read: "):
        read(path)


def test_a_stream_that_is_damaged_at_its_start(tmp_path):
    path = packed(tmp_path / "x.csv.gz", csv_of(*range(1000)))
    content = path.read_bytes()
    path.write_bytes(content[:10] + b"\xff" * 20 + content[30:])
    with pytest.raises(InputError, match=r"x.csv.gz cannot be read: Error -3"):
        read(path)


def test_an_encrypted_archive(tmp_path):
    path = zip_of(tmp_path / "x.zip", {"any.csv": csv_of(1)})
    content = path.read_bytes()
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(header) + offset
        content = content[:place] + b"\x01" + content[place + 1 :]
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        open_source(str(path))


def test_a_file_that_vanishes(tmp_path):
    path = packed(tmp_path / "x.csv", csv_of(1))
    (chunk,) = open_source(str(path)).chunks
    path.unlink()
    with pytest.raises(InputError, match=r"x.csv cannot be read: .*No such file"):
        list(read_blocks(chunk, COLUMNS, frozenset()))


def test_what_fails_behind_the_blocks_is_not_the_files_fault(tmp_path):
    (chunk,) = open_source(str(packed(tmp_path / "x.csv", csv_of(1)))).chunks
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
        for _ in read_blocks(chunk, COLUMNS, frozenset()):
            raise OSError(28, "No space left on device")


def titles_of(path, text, member=None):
    path.write_bytes(text)
    table = read_titles(TitleFile(str(path), member, "movieId", "title"))
    return dict(zip(table["id"].to_pylist(), table["title"].to_pylist(), strict=True))


def test_titles(tmp_path):
    text = '''\ufefftitle ;movieId;x
"Great; ""Cats""";1;
Amélie;2;
bad
The "X";3;
'''
    assert titles_of(tmp_path / "t.csv", text.encode()) == {
        b"1": b'Great; "Cats"',
        b"2": "Amélie".encode(),
        b"3": b'The "X"',
    }


def test_titles_are_checked_before(tmp_path):
    path = tmp_path / "t.csv"
    titles = TitleFile(str(path), None, "movieId", "title")
    with pytest.raises(InputError, match="there is no file of titles at"):
        check_titles(titles)
    path.write_bytes(b"movieId,name\n")
    with pytest.raises(InputError, match=r"t.csv has no column 'title'; it has movieId, name"):
        check_titles(titles)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        check_titles(titles)
    path.write_bytes(b"movieId,title\n")
    check_titles(titles)


def test_a_long_list_of_names_is_cut():
    assert listed(("a", "b")) == "a, b"
    assert listed(tuple("abcdef"), most=3) == "a, b, c and 3 more"
    assert listed(("x" * 1000,)) == "x" * 80


def test_blocks_of_a_stream_are_read_one_by_one(tmp_path, monkeypatch):
    """A compressed file is never in memory as a whole."""
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 100)
    path = packed(tmp_path / "x.csv.gz", csv_of(*range(1000)))
    (chunk,) = open_source(str(path)).chunks
    assert next(read_blocks(chunk, COLUMNS, frozenset())).n_rows < 20
