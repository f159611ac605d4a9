"""Text of any form: what was written is found, or refused with what helps."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import zipfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support.prepare_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_als.core.executor import SerialExecutor
from dask_als.data import text_chunks
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, append, prepare
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings

NAMES = ("userId", "movieId", "rating", "timestamp", "review")
PACKED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda text: bytes(pa.Codec("zstd").compress(text)),
}


def made(source, *, name="dataset", folder=None, columns=Columns(), titles=None, **options):
    return prepare(
        str(source),
        str((folder or Path(source).parent) / name),
        SerialExecutor(),
        columns=columns,
        settings=PrepareSettings(**options),
        titles=titles,
    )


def ratings_of(dataset):
    return oracle.written(dataset.path).by_user


@dataclass(frozen=True)
class Form:
    """How records are written."""

    delimiter: str
    quoting: int
    header: bool
    line_end: str
    packing: str
    comments: int
    blank_lines: bool
    bom: bool
    decimal: str
    encoding: str

    def text(self, records):
        lines = [self.line(NAMES)] if self.header else []
        for record in records:
            user, item, rating, *others = record
            lines.append(self.line([user, item, rating.replace(".", self.decimal), *others]))
            if self.blank_lines:
                lines.append("")
        lines[:0] = [f"# comment {n}" for n in range(self.comments)]
        text = "".join(line + self.line_end for line in lines)
        content = text.encode(self.encoding)
        return (b"\xef\xbb\xbf" if self.bom and self.encoding == "utf-8" else b"") + content

    def line(self, fields):
        if len(self.delimiter) > 1 or self.delimiter == " ":
            return self.delimiter.join(fields)
        file = io.StringIO()
        csv.writer(
            file, delimiter=self.delimiter, quoting=self.quoting, lineterminator="\r\n"
        ).writerow(fields)
        return file.getvalue().removesuffix("\r\n")

    def columns(self, *, is_told):
        by = NAMES if self.header else range(4)
        form = {"delimiter": self.delimiter, "header": self.header} if is_told else {}
        if is_told:
            form["comment"] = "#" if self.comments else ""
        encoding = None if self.encoding == "utf-8" else self.encoding
        user, item, rating, time = list(by)[:4]
        return Columns(
            user=user, item=item, rating=rating, time=time, decimal=self.decimal,
            encoding=encoding, **form,
        )  # fmt: skip


@st.composite
def forms(draw):
    delimiter = draw(st.sampled_from([",", "\t", ";", "|", "::", " "]))
    return Form(
        delimiter=delimiter,
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        header=draw(st.booleans()),
        line_end=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        packing=draw(st.sampled_from(sorted(PACKED))),
        comments=draw(st.integers(0, 2)),
        blank_lines=draw(st.booleans()),
        bom=draw(st.booleans()),
        decimal=draw(st.sampled_from([".", ","] if delimiter != "," else ["."])),
        encoding=draw(st.sampled_from(["utf-8", "latin-1"])),
    )


USERS = st.sampled_from(["ann", "bob", "7", "007", "é", "x y", "a,b", "a;b", '6"', "#1"])
ITEMS = st.sampled_from(["1", "2", "30", "400"])
RATINGS = st.sampled_from(["1", "3.5", "4", "0.5"])
TEXTS = st.text('ab "\n\r,;|é1', max_size=12) | st.sampled_from(
    ["1,2,3.5,4,5\n", '\n"', "\r\n1;2;3;4;5\r\n", "fine", 'say "hi"\nand go', ""]
)


@st.composite
def files(draw):
    """Draw a form, and records that it can hold, in files."""
    form = draw(forms())
    users, texts = USERS, TEXTS
    if form.comments:
        users = users.filter(lambda id_: not id_.startswith("#"))
    if form.delimiter in ("::", " "):  # These have no quotes that span lines.
        users = users.filter(lambda id_: id_.isalnum())
        texts = st.sampled_from(["fine", "a", "é"])
    records = draw(
        st.lists(
            st.tuples(users, ITEMS, RATINGS, st.integers(0, 10**9).map(str), texts),
            min_size=1,
            max_size=12,
            unique_by=lambda record: record[3],
        )
    )
    n_files = draw(st.integers(1, 3))
    edges = [len(records) * n // n_files for n in range(n_files + 1)]
    parts = [records[start:stop] for start, stop in itertools.pairwise(edges)]
    return form, [part for part in parts if part]


@settings(max_examples=30, deadline=None)
@given(drawn=files(), is_told=st.booleans(), n_ranges=st.sampled_from([1, 5]), empty=st.booleans())
def test_what_was_written_is_found_or_refused(tmp_path_factory, drawn, is_told, n_ranges, empty):
    form, parts = drawn
    folder = tmp_path_factory.mktemp("forms") / "source"
    folder.mkdir()
    written = {}
    for number, records in enumerate(parts):
        path = folder / f"part-{number:05d}.csv{form.packing}"
        text = form.text(records)
        path.write_bytes(PACKED[form.packing](text))
        written[str(path)] = [record[:4] for record in records]
    if empty:
        (folder / f"part-99999.csv{form.packing}").write_bytes(b"")
    n_bytes = max(1, -(-len(text) // n_ranges))
    with patch.object(text_chunks, "BLOCK_BYTES", n_bytes):
        try:
            dataset = made(folder, columns=form.columns(is_told=is_told))
        except InputError as error:
            if is_told or "--" not in str(error):
                raise
            return
    expected = oracle.expected(written)
    found = oracle.written(dataset.path)
    assert found.by_user == expected.kept
    assert found.rejected == []
    assert dataset.source["rows"] == expected.n_rows
    assert dataset.source["duplicates"] == expected.n_merged
    if empty:
        assert "1 empty file" in dataset.source["found"]


LINES = [
    ",".join(map(str, (user, item, [1, 2, 3.5, 4, 5][(user + item) % 5], 1_700_000_000 + item)))
    for user in range(1, 11)
    for item in range(100 + user, 106 + user)
]
HEADER = "userId,movieId,rating,timestamp"
PLAIN = "\n".join([HEADER, *LINES]) + "\n"


@pytest.fixture
def plain(tmp_path):
    """The ratings that a plain file of them gives."""
    (tmp_path / "plain.csv").write_text(PLAIN)
    dataset = made(tmp_path / "plain.csv", name="plain")
    assert "found" not in dataset.source
    return ratings_of(dataset)


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("u.data", "\t"), ("u1.base", "\t"), ("ua.test", "\t"), ("ratings.dat", "::")],
)
def test_movielens_files_without_header(tmp_path, plain, name, delimiter):
    (tmp_path / name).write_text("\n".join(LINES).replace(",", delimiter))
    assert ratings_of(made(tmp_path / name)) == plain


def grouplens_100k(folder):
    folder.mkdir()
    (folder / "u.data").write_text("\n".join(LINES).replace(",", "\t"))
    (folder / "u1.base").write_text("\n".join(LINES[:40]).replace(",", "\t"))
    (folder / "u.info").write_text("10 users\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n")
    (folder / "README").write_text("about\n")
    titles = "".join(
        f"{n}|Les Mis\xe9rables {n}|01-Jan-1995||http://x|0|1|0\n" for n in range(101, 117)
    )
    (folder / "u.item").write_bytes(titles.encode("latin-1"))


def grouplens_1m(folder):
    folder.mkdir()
    (folder / "ratings.dat").write_text("\n".join(LINES).replace(",", "::"))
    (folder / "users.dat").write_text("1::F::1::10::48067\n")
    titles = "".join(f"{n}::Les Mis\xe9rables {n}::Drama|War\n" for n in range(101, 117))
    (folder / "movies.dat").write_bytes(titles.encode("latin-1"))


@pytest.mark.parametrize("archive", [grouplens_100k, grouplens_1m])
def test_movielens_archives_as_they_are(tmp_path, plain, archive):
    folder = tmp_path / "ml"
    archive(folder)
    packed = tmp_path / "ml.zip"
    with zipfile.ZipFile(packed, "w") as made_zip:
        for path in folder.iterdir():
            made_zip.write(path, f"ml/{path.name}")
    for number, source in enumerate((folder, packed)):
        dataset = made(source, name=f"d{number}", test_fraction=0.0)
        assert ratings_of(dataset) == plain
        titles = pq.read_table(Path(dataset.path) / "items.parquet")["title"].to_pylist()
        assert titles[0] == "Les Misérables 101"
    if archive is grouplens_100k:
        base = made(folder / "u1.base", name="base")
        assert base.n_ratings == 40
        assert base.has_titles


def test_a_fold_within_its_archive(tmp_path, plain):
    """The folds of ml-100k, as downloaded; a fold that was appended is another than its test."""
    folder, packed = tmp_path / "ml", tmp_path / "ml.zip"
    grouplens_100k(folder)
    (folder / "u1.test").write_text("\n".join(LINES[40:]).replace(",", "\t"))
    with zipfile.ZipFile(packed, "w") as made_zip:
        for path in folder.iterdir():
            made_zip.write(path, f"ml/{path.name}")
    base, test = (f"{packed}!ml/u1.{part}" for part in ("base", "test"))
    fold = prepare(base, str(tmp_path / "fold"), SerialExecutor(), test=test)
    assert (fold.n_ratings, fold.n_test) == (40, len(LINES) - 40)
    assert fold.has_titles
    assert fold.source["path"] == base
    grown = prepare(base, str(tmp_path / "grown"), SerialExecutor())
    assert ratings_of(append(test, grown.path, SerialExecutor())) == plain
    with pytest.raises(InputError, match=r"u1\.test was appended to .* already"):
        append(test, grown.path, SerialExecutor())
    with pytest.raises(InputError, match=r"ml\.zip has no file 'u9\.base'; it has .*ml/u1\.base"):
        prepare(f"{packed}!u9.base", str(tmp_path / "x"), SerialExecutor())
    with pytest.raises(InputError, match="there is no archive at"):
        prepare(f"{tmp_path}/no.zip!u1.base", str(tmp_path / "x"), SerialExecutor())
    # A file that has such a name is itself.
    odd = tmp_path / "ml.zip!odd.csv"
    odd.write_text(PLAIN)
    assert ratings_of(made(odd, name="odd")) == plain


ACCENTED = "userId,movieId,rating\n" + "".join(
    f"Zoë {n},\xe9t\xe9 {n % 3},{n % 5 + 1}\n" for n in range(9)
)


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"]
)
def test_encodings(tmp_path, encoding):
    """What has a mark is read as it is; all else is refused with the option that helps."""
    (tmp_path / "utf-8.csv").write_text(ACCENTED, encoding="utf-8")
    expected = ratings_of(made(tmp_path / "utf-8.csv"))
    path = tmp_path / "x.csv"
    path.write_text(ACCENTED, encoding=encoding)
    if encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert ratings_of(made(path, name="x")) == expected
        return
    with pytest.raises(InputError, match=r"not.* UTF-8; .*--encoding"):
        made(path, name="x")
    assert ratings_of(made(path, name="x", columns=Columns(encoding=encoding))) == expected


def test_ids_that_are_not_utf_8_among_others(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"userId,movieId,rating\nanna,1,4\nb\xf6rn,1,3\n")
    dataset = made(path)
    assert ratings_of(dataset) == {("anna", 1): 4.0}
    (row,) = oracle.written(dataset.path).rejected
    assert row["reason"].startswith("user id is not UTF-8; give the --encoding")


@pytest.mark.parametrize("name", ["u.tsv", "amazon.csv", "part-00000", "x"])
def test_a_first_rating_is_never_taken_for_names(tmp_path, plain, name):
    lines = [line.replace(",", "\t") if name == "u.tsv" else line for line in LINES]
    path = tmp_path / name
    path.write_text("\n".join(lines))
    fields = LINES[0].split(",")
    named = Columns(user=fields[0], item=fields[1], rating=fields[2], time=fields[3])
    for columns in (Columns(), named):
        with pytest.raises(InputError, match=r"no header.* first line '1.+--user-col 0"):
            made(path, columns=columns)
    positions = Columns(user=0, item="1", rating=2, time=3)
    assert ratings_of(made(path, columns=positions)) == plain


@pytest.mark.parametrize("first", ["0,1,2,3", "a,b,x,y"])
def test_a_first_line_that_may_be_either_is_asked_about(tmp_path, first):
    path = tmp_path / "x.csv"
    path.write_text(f"{first}\n7,8,3,4\n")
    columns = {"user": 0, "item": 1, "rating": None}
    with pytest.raises(InputError, match=f"starts with the line '{first}'.*--no-header"):
        made(path, columns=Columns(**columns))
    for number, header in enumerate((True, False)):
        dataset = made(path, name=f"{number}", columns=Columns(header=header, **columns))
        assert dataset.source["rows"] == (1 if header else 2)


@pytest.mark.parametrize(
    "name", ["r.csv.bz2", "r.csv.xz", "r.csv.zst", "r.gzip", "r.txt", "r.dat", "r", "part-00000"]
)
def test_names_and_compression(tmp_path, plain, name):
    suffix = Path(name).suffix.replace("gzip", "gz")
    path = tmp_path / name
    path.write_bytes(PACKED.get(suffix, bytes)(PLAIN.encode()))
    assert ratings_of(made(path)) == plain
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / name)
    (folder / "_SUCCESS").write_bytes(b"")
    assert ratings_of(made(folder, name="of-folder")) == plain


def test_compression_is_known_by_the_content(tmp_path, plain):
    for suffix, pack in PACKED.items():
        path = tmp_path / f"any{suffix.replace('.', '-')}"
        path.write_bytes(pack(PLAIN.encode()))
        assert ratings_of(made(path, name=f"of{path.name}")) == plain


def test_utf_16(tmp_path, plain):
    path = tmp_path / "excel.txt"
    path.write_bytes(PLAIN.replace(",", "\t").encode("utf-16"))
    assert ratings_of(made(path)) == plain
    path.write_bytes(PLAIN.encode("utf-16-le"))
    told = Columns(encoding="utf-16-le")
    assert ratings_of(made(path, name="told", columns=told)) == plain


def test_spaces_and_comments(tmp_path, plain):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(f"  {line}" for line in PLAIN.replace(",", "   ").splitlines()))
    dataset = made(path)
    assert ratings_of(dataset) == plain
    assert dataset.source["found"] == "delimiter spaces, 4 columns, a header"
    path.write_text(f"# made by x\n# and y\n{PLAIN}")
    dataset = made(path, name="comments")
    assert ratings_of(dataset) == plain
    assert dataset.source["found"].endswith("2 comment lines before")
    path.write_text(f"% a\n{PLAIN}% b,2,3,4\n%c\n")
    assert made(path, name="one").source["rejected"] == 1
    told = made(path, name="told", columns=Columns(comment="%"))
    assert (ratings_of(told), told.source["rows"]) == (plain, 60)


def test_a_comment_that_may_be_a_record_is_asked_about(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("#1,2,3\n4,5,1\n")
    columns = {"user": 0, "item": 1, "rating": 2}
    with pytest.raises(InputError, match=r"line '#1,2,3'.*--comment '#'.*--comment ''"):
        made(path, columns=Columns(**columns))
    for comment, n_rows in (("#", 1), ("", 2)):
        dataset = made(path, name=f"{n_rows}", columns=Columns(comment=comment, **columns))
        assert dataset.source["rows"] == n_rows


def test_a_decimal_comma(tmp_path, plain):
    path = tmp_path / "c.csv"
    path.write_text(PLAIN.replace(",", ";").replace(".", ","))
    with pytest.raises(InputError, match=r"the rating '3,5': give --decimal ,"):
        made(path)
    assert ratings_of(made(path, columns=Columns(decimal=","))) == plain


def test_empty_parts_are_skipped_and_counted(tmp_path, plain):
    folder = tmp_path / "spark"
    folder.mkdir()
    (folder / "part-00000.csv").write_text(PLAIN)
    (folder / "part-00001.csv").write_bytes(b"")
    (folder / "part-00002.csv.gz").write_bytes(gzip.compress(b""))
    dataset = made(folder)
    assert ratings_of(dataset) == plain
    assert dataset.source["found"] == "2 empty files skipped"
    (folder / "part-00000.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"part-00000\.csv is empty"):
        made(folder, name="none")


def json_lines(lines):
    keys = HEADER.split(",")
    return [
        json.dumps(dict(zip(keys, map(float, line.split(",")), strict=True)) | {"nested": [{}]})
        for line in lines
    ]


@pytest.mark.parametrize("packing", sorted(PACKED))
def test_json_lines(tmp_path, plain, packing, monkeypatch):
    text = "\n".join(json_lines(LINES)).replace(".0", "").encode()
    path = tmp_path / f"reviews.json{packing}"
    path.write_bytes(PACKED[packing](text))
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 700)
    dataset = made(path)
    assert ratings_of(dataset) == plain
    assert dataset.source["found"] == "JSON lines, 5 keys"


def test_json_lines_that_are_none(tmp_path):
    good = {"userId": "A1", "movieId": "07", "rating": 4}
    others = [
        "{'userId': 1}", "[1]", "7", '{"userId": {}, "movieId": 1, "rating": 1}',
        '{"movieId": "x", "rating": 1}', '{"userId": "A2", "movieId": 8, "rating": "5"}',
    ]  # fmt: skip
    path = tmp_path / "x.json"
    path.write_text("\n".join([json.dumps(good), *others]))
    dataset = made(path)
    assert ratings_of(dataset) == {("A1", "07"): 4.0, ("A2", "8"): 5.0}
    reasons = [row["reason"] for row in oracle.written(dataset.path).rejected]
    assert [reason.split(":")[0] for reason in reasons] == [
        *["not a JSON object"] * 3,
        "a value is neither a number nor a text",
        "user id is missing or unreadable",
    ]
    assert [row["row"] for row in oracle.written(dataset.path).rejected] == [2, 3, 4, 5, 6]
    path.write_text(json.dumps([good]))
    with pytest.raises(InputError, match=r"array of JSON; write one object per line"):
        made(path, name="array")


def test_hive_columns(tmp_path, plain):
    folder = tmp_path / "h"
    for line in LINES:
        user, item, rating, time = line.split(",")
        inside = folder / f"year=2024/rating={rating}"
        inside.mkdir(parents=True, exist_ok=True)
        table = pa.table({"userId": [int(user)], "movieId": [int(item)], "timestamp": [int(time)]})
        pq.write_table(table, inside / f"{user}-{item}.parquet")
    dataset = made(folder)
    assert ratings_of(dataset) == plain
    by_glob = made(f"{folder}/year=*/rating=*/*.parquet", folder=tmp_path, name="glob")
    assert ratings_of(by_glob) == plain
    with pytest.raises(InputError, match="it has userId, movieId, timestamp, year, rating"):
        made(folder, name="none", columns=Columns(user="who"))


def test_hive_columns_of_text(tmp_path, plain):
    folder = tmp_path / "h"
    for user in range(1, 11):
        inside = folder / f"userId={user}"
        inside.mkdir(parents=True)
        lines = [line.split(",", 1)[1] for line in LINES if line.startswith(f"{user},")]
        (inside / "part-00000").write_text("\n".join(["movieId,rating,timestamp", *lines]))
    assert ratings_of(made(folder)) == plain


def test_ids_of_databases(tmp_path, plain):
    path = tmp_path / "x.csv"
    path.write_text("userId,movieId,rating\n7,1,1\n07,1,2\n007,1,3\n 7,1,4\n")
    assert ratings_of(made(path)) == {("7", 1): 1, ("07", 1): 2, ("007", 1): 3, (" 7", 1): 4}
    as_numbers = made(path, name="numbers", columns=Columns(id_type="int"), duplicates="sum")
    assert ratings_of(as_numbers) == {(7, 1): 10}
    as_text = made(path, name="text", columns=Columns(id_type="text"))
    users = ("7", "07", "007", " 7")
    assert ratings_of(as_text) == {(user, "1"): n for n, user in enumerate(users, start=1)}


def test_a_time_that_nothing_needs_rejects_nothing(tmp_path, plain):
    path = tmp_path / "x.csv"
    path.write_text(
        "\n".join([HEADER, *(line.rsplit(",", 1)[0] + ",24/12/2023" for line in LINES)])
    )
    dataset = made(path)
    assert (ratings_of(dataset), dataset.source["untimed"]) == (plain, 60)
    for number, columns in enumerate((Columns(no_time=True), Columns(time_format="dd/mm/yyyy"))):
        dataset = made(path, name=f"{number}", columns=columns)
        assert ratings_of(dataset) == plain
        assert "untimed" not in dataset.source
    with pytest.raises(InputError, match=r"all 60 rows were rejected.*time is missing"):
        made(path, name="latest", split="latest", test_fraction=0.5)
    with pytest.raises(InputError, match="needs a time column"):
        made(path, columns=Columns(no_time=True), split="latest", test_fraction=0.5)


def test_of_several_ratings_one_without_time_is_the_oldest(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"{HEADER}\n1,1,3,\n1,1,4,5\n1,1,5,never\n1,2,2,\n1,2,1,\n")
    assert ratings_of(made(path)) == {(1, 1): 4.0, (1, 2): 1.0}


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("id,title\n101,Les Mis\xe9rables\n", {"id_column": "id"}),
        ("id|title\n101|Les Mis\xe9rables\n", {"id_column": 0, "column": 1}),
        ("101;Les Mis\xe9rables\n2;B\n", {"id_column": 0, "column": "1"}),
        ('{"asin": 101, "name": "Les Mis\xe9rables"}\n', {"id_column": "asin", "column": "name"}),
    ],
)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_titles_of_any_form(tmp_path, plain, text, columns, encoding):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    dataset = made(tmp_path / "plain.csv", titles=Titles(str(tmp_path / "t.csv"), **columns))
    titles = pq.read_table(Path(dataset.path) / "items.parquet")["title"].to_pylist()
    assert titles[0] == "Les Misérables"


def test_titles_whose_ids_have_another_name(tmp_path, plain):
    (tmp_path / "t.csv").write_text("id,title\n1,A\n")
    with pytest.raises(
        InputError, match=r"no column 'movieId'; it has id, title; .*--title-id-col"
    ):
        made(tmp_path / "plain.csv", titles=Titles(str(tmp_path / "t.csv")))


def test_settings_are_kept_for_the_next_time(tmp_path, plain):
    path = tmp_path / "x"
    path.write_text("\n".join(LINES).replace(",", "~~"))
    columns = Columns(user=0, item=1, rating=2, no_time=True, delimiter="~~")
    dataset = open_dataset(made(path, columns=columns).path)
    assert ratings_of(dataset) == plain
    assert dataset.source["columns"] == {
        "user": "0", "item": "1", "rating": "2", "no_time": True, "delimiter": "~~",
    }  # fmt: skip
    assert (
        ratings_of(made(path, name="again", columns=Columns(**dataset.source["columns"]))) == plain
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delimiter": ""}, "delimiter is ''"),
        ({"delimiter": '"'}, "delimiter is '\"'"),
        ({"encoding": "klingon"}, "encoding is 'klingon'"),
        ({"encoding": "rot13"}, "encoding is 'rot13'"),
        ({"time_format": "soon"}, "time-format is 'soon'"),
        ({"decimal": ";"}, "decimal is ';'"),
        ({"id_type": "float"}, "id-type is 'float'"),
        ({"no_time": True, "time": "t"}, "time is 't'"),
        ({"user": 0, "item": "0"}, "columns"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        Columns(**wrong)


def test_what_was_found_is_logged(tmp_path, plain, caplog):
    caplog.set_level("INFO", "dask_als")
    (tmp_path / "u.data").write_text("\n".join(LINES).replace(",", "\t"))
    made(tmp_path / "u.data")
    assert "u.data: delimiter tab, 4 columns, no header" in caplog.text
