import csv
import io
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.data.csv_text import LINE_END, parse
from dask_als.data.text_form import CsvFormat, find_format
from dask_als.errors import InputError
from dask_als.settings.data import Columns

FORMAT = CsvFormat(("a", "b", "c"), ",", 0)
COLUMNS = {"user": "a", "item": "b", "rating": "c"}
ANYTHING = st.lists(
    st.sampled_from(
        [b'"', b",", b"\r", b"\n", b"1", b"x", b" ", b"\0", b"\xff", b",1,2\n", b"5,6,7\n"]
    )
    | st.sampled_from([b'"5","6","7"\r\n', b'"a""b",2,3\n', b"0x1,2,3\n", b"1,2,inf\n"]),
    max_size=25,
).map(b"".join)


def records(text, csv_format=FORMAT):
    """Return each record as a dict of text, or as what is wrong with it."""
    table, malformed, _ = parse(text, csv_format, COLUMNS, frozenset(COLUMNS))
    found = dict(malformed)
    rows = iter(table.to_pylist())
    return [found.get(n) or next(rows) for n in range(table.num_rows + len(malformed))]


def cut(text, n_bytes):
    """Cut text at line ends into pieces of at least so many bytes."""
    while text:
        line_end = LINE_END.search(text, min(n_bytes, len(text)))
        stop = line_end.end() if line_end else len(text)
        yield text[:stop]
        text = text[stop:]


@given(ANYTHING.map(lambda text: text.replace(b'"', b"'")))
def test_every_line_is_a_record(text):
    lines = re.findall(rb"[^\r\n]+", text)
    found = records(text)
    assert len(found) == len(lines)
    for line, record in zip(lines, found, strict=True):
        if line.count(b",") == 2:
            values = [value or None for value in line.split(b",")]
            assert record == dict(zip(COLUMNS, values, strict=True))
        else:
            assert record.startswith(f"{line.count(b',') + 1} columns instead of 3: ")


def pieces(text, n_bytes):
    """Parse text in ranges of at least so many bytes, as `TextRange` does; return the records."""
    start, found = 0, []
    cuts = [*(len(text) - len(rest) for rest in tails(text, n_bytes)), len(text)]
    for stop in cuts:
        if stop <= start:
            continue
        for end in range(stop, len(text) + 1):
            is_all = end == len(text)
            if is_all or text[end - 1 : end] in (b"\r", b"\n"):
                parsed = parse(
                    text[start:end], FORMAT, COLUMNS, frozenset(COLUMNS),
                    stop=stop - start, is_all=is_all,
                )  # fmt: skip
                if parsed.end >= stop - start:
                    break
        wrong = dict(parsed.malformed)
        rows = iter(parsed.table.to_pylist())
        n_rows = parsed.table.num_rows + len(wrong)
        found += [wrong.get(n) or next(rows) for n in range(n_rows)]
        start += parsed.end
    return found


def tails(text, n_bytes):
    for piece in cut(text, n_bytes):
        text = text[len(piece) :]
        yield text


@given(ANYTHING, st.integers(0, 9))
def test_where_text_is_cut_does_not_matter(text, n_bytes):
    """Also within quotes: a piece is followed by as much text as its last record needs."""
    assert pieces(text, n_bytes) == records(text)


@given(st.lists(st.lists(st.text('",;x é\n\r', min_size=1), min_size=3, max_size=3), max_size=8))
def test_what_is_quoted_comes_back(rows):
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    expected = [[value.encode() for value in row] for row in rows]
    assert [list(record.values()) for record in records(file.getvalue().encode())] == expected


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"1,2", "2 columns instead of 3: 1,2"),
        (b"1,2,3,4", "4 columns instead of 3: 1,2,3,4"),
        (b'1,"2,3",4,5,6', '5 columns instead of 3: 1,"2,3",4,5,6'),
        (b"  ", "1 columns instead of 3:   "),
        (b'"1,2,3', 'a quote is out of place or not closed: "1,2,3'),
        (b'1,2,"3', 'a quote is out of place or not closed: 1,2,"3'),
        (b'1,2,"3"4', 'a quote is out of place or not closed: 1,2,"3"4'),
        (b"1,\xff", r"2 columns instead of 3: 1,\xff"),
        (b"1" * 1000, "1 columns instead of 3: " + "1" * 200),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line, wrong):
    table, malformed, _ = parse(b"1,2,3\n" + line + b"\r\n4,5,6", FORMAT, COLUMNS, frozenset())
    assert malformed == [(1, wrong)]
    assert table.num_rows == 2


def test_only_nothing_is_missing():
    assert records(b"NA,null,\n") == [{"user": b"NA", "item": b"null", "rating": None}]


def test_a_million_columns_in_one_row():
    found = records(b"1,2,3\n" + b"7," * 999_999 + b"7\n4,5,6\n")
    assert found[1].startswith("1000000 columns instead of 3: 7,7,7")
    assert len(found) == 3


def test_quotes_within_a_value_are_just_quotes():
    assert records(b'6" pipe,the "x",3\n') == [
        {"user": b'6" pipe', "item": b'the "x"', "rating": b"3"}
    ]


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (b"1,-2,3.5\n", [pa.int64(), pa.int64(), pa.float64()]),
        (b" 7 ,70,1e3\n", [pa.int64(), pa.int64(), pa.float64()]),
        (b"7,007,3\n", [pa.binary()] * 3),
        (b"07,7,3\n", [pa.binary()] * 3),
        (b"7, 07,3\n", [pa.binary()] * 3),
        (b"7,-0,3\n", [pa.binary()] * 3),
        (b"1,2,3\r-07,7,3\r", [pa.binary()] * 3),
        (b"0,0,0.5\n", [pa.int64(), pa.int64(), pa.float64()]),
        (b"1,2,3\n1.0,2,3\n", [pa.binary()] * 3),
        (b"1,2,3\n,2,3\n", [pa.binary()] * 3),
        (b"1,2,inf\n", [pa.binary()] * 3),
        (b"1,2,1e39\n", [pa.binary()] * 3),
        (b"0x10,2,3\n", [pa.binary()] * 3),
        (b'"1",2,3\n', [pa.binary()] * 3),
        (b"9223372036854775808,2,3\n", [pa.binary()] * 3),
    ],
)
def test_numbers_are_parsed_if_all_are(text, types):
    table, _, _ = parse(text, FORMAT, COLUMNS, frozenset())
    assert table.schema.types == types


def test_ids_stay_text_where_they_are_wanted_so():
    table, _, _ = parse(b"007,2,3\n", FORMAT, COLUMNS, frozenset({"user", "item"}))
    assert table.to_pylist() == [{"user": b"007", "item": b"2", "rating": 3.0}]


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\r\n"])
def test_no_records(text):
    table, malformed, _ = parse(text, FORMAT, COLUMNS, frozenset())
    assert (table.num_rows, table.column_names, malformed) == (0, list(COLUMNS), [])


@pytest.mark.parametrize(
    ("start", "names", "delimiter", "rest"),
    [
        (b"a,b,c\n1,2,3\n", "abc", ",", b"1,2,3\n"),
        (b"\xef\xbb\xbfa,b,c\r\n1", "abc", ",", b"\n1"),
        (b"a;b;c\r1", "abc", ";", b"1"),
        (b"a\tb\tc", "abc", "\t", b""),
        (b"\r\n\na|b|c\n", "abc", "|", b""),
        (b' a , "b",c\n', ["a", '"b"', "c"], ",", b""),
        (b'"a","b, and",c\n', ["a", "b, and", "c"], ",", b""),
        ("é,b,c\n".encode(), "ébc", ",", b""),
    ],
)
def test_the_header(start, names, delimiter, rest):
    found = find_format(start, "file", Columns(), is_all=True)
    assert (found.names, found.delimiter) == (tuple(names), delimiter)
    assert start[found.header_bytes :] == rest


@pytest.mark.parametrize(
    ("start", "is_all", "message"),
    [
        (b"", True, "f.csv is empty"),
        (b"\n\r\n", True, "f.csv is empty"),
        (b"\xef\xbb\xbf", True, "f.csv is empty"),
        ("a,b\n".encode("utf-16"), True, "f.csv is not CSV text in UTF-8"),
        (b"a,b", False, "f.csv has a first line of more than 3 bytes"),
        (b"," * 10_000 + b"\n", True, "f.csv has a header of 10,001 columns; at most 10,000 are"),
        (b'"' + b"a" * 200_000 + b'",b\n', True, "f.csv has a header that cannot be read"),
    ],
)
def test_a_header_that_cannot_be_read(start, is_all, message):
    with pytest.raises(InputError, match=re.escape(message)):
        find_format(start, "f.csv", Columns(), is_all=is_all)
