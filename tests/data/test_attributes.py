"""Attributes from files: what `prepare` makes of them, what it reports, and what it refuses."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data import write_csv

from dask_als.core.checksums import crc32_of
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.attribute_source import (
    AttributeFile,
    FoundAttributes,
    StoredAttributes,
    read_attributes,
    with_ids,
)
from dask_als.data.attributes import attributes_path, encoded, write_attributes
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import append, prepare
from dask_als.errors import InputError
from dask_als.settings.data import LEAST_ROWS, Columns, PrepareSettings

IDS = pa.table({"id": pa.array(range(10)), "count": pa.array([2] * 10)})
RATINGS = [(user, item, 3 + (user + item) % 3) for user in range(6) for item in range(8)]


def parquet(folder, **columns):
    path = folder / "attributes.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def csv(folder, text):
    path = folder / "attributes.csv"
    path.write_text(text)
    return str(path)


def found_in(path, ids=IDS, columns=Columns()):
    return read_attributes(AttributeFile(path, ITEMS, columns), None, ids)


def written(folder, path, ids=IDS):
    """Return the record and the matrix of the attributes in a file."""
    found = found_in(path, ids)
    ids = with_ids(ids, found)
    made = write_attributes(str(folder), ITEMS, found, ids, ids["count"].to_numpy())
    table = pq.read_table(attributes_path(str(folder), ITEMS))
    assert table["id"].to_pylist() == ids["id"].to_pylist()
    return made, encoded(table, made.attributes).dense()


def test_numbers_are_standardized_over_rows_with_ratings(tmp_path):
    path = parquet(tmp_path, id=range(12), year=[*map(float, range(1990, 2000)), 5000.0, None])
    made, matrix = written(tmp_path, path)
    np.testing.assert_allclose(matrix[:10].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(matrix[:10].std(), 1)
    assert matrix[10] > 100
    assert matrix[11] == 0
    assert made.counts["without_ratings"] == 2


def test_texts_and_lists_are_categories(tmp_path):
    genres = ["A|B", "B", "", "A", "A | B", "B|B", "C", "A|C", None, "B"]
    made, matrix = written(tmp_path, parquet(tmp_path, id=range(10), genres=genres))
    (attribute,) = made.attributes
    assert attribute.categories == ("A", "B")
    expected = [[float(g in (text or "")) for g in "AB"] for text in genres]
    assert matrix.tolist() == expected
    assert made.counts["rare_categories"] == 1
    lists = [[part.strip() for part in text.split("|")] if text else None for text in genres]
    of_lists, same = written(tmp_path, parquet(tmp_path, id=range(10), genres=lists))
    assert (of_lists.attributes, same.tolist()) == (made.attributes, expected)


def test_csv_has_the_attributes_of_parquet(tmp_path):
    lines = ["movieId,year,genres", "1,1995,A|B", "2,,B", "3,1997,A", "4,NA,A|B", "5,2001.5,B|A"]
    of_csv, matrix = written(tmp_path, csv(tmp_path, "\n".join(lines)))
    path = parquet(
        tmp_path,
        movieId=[1, 2, 3, 4, 5],
        year=[1995, None, 1997, None, 2001.5],
        genres=["A|B", "B", "A", "A|B", "B|A"],
    )
    of_parquet, same = written(tmp_path, path)
    assert of_csv.attributes == of_parquet.attributes
    assert matrix.tobytes() == same.tobytes()
    assert of_csv.counts == of_parquet.counts


def test_what_says_nothing_is_left_out(tmp_path):
    path = parquet(
        tmp_path,
        id=range(10),
        empty=pa.nulls(10, pa.float64()),
        blank=[" "] * 10,
        same=[1.5] * 10,
        title=[f"Film {i}" for i in range(10)],
        flag=[i % 2 == 0 for i in range(10)],
        no_number=[float("nan"), float("inf"), *[None] * 8],
    )
    made, matrix = written(tmp_path, path)
    assert made.left_out == ("empty", "blank", "same", "title", "no_number")
    assert [attribute.name for attribute in made.attributes] == ["flag"]
    assert matrix.shape == (10, 1)


def test_attributes_that_all_say_nothing_are_an_error(tmp_path):
    path = parquet(tmp_path, id=range(10), empty=pa.nulls(10, pa.string()))
    with pytest.raises(InputError, match="none of the item attributes empty says anything"):
        written(tmp_path, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("film,year\n1,2\n", "no column 'movieId' or 'id'.*it has film, year"),
        ("movieId\n1\n", "no column of attributes beside 'movieId'"),
        ("movieId,year,year\n1,2,3\n", "several columns 'year'"),
        ("movieId,id\n1,2\n", "ids in 'movieId' and an attribute 'id'"),
        ("movieId,year\n", "has no rows"),
        ("movieId,year\n,1\nx,2\n", "none of the 2 rows .* has a usable id.*like 0"),
        ("movieId,year\n77,1\n78,2\n", "none of the ids .*such as 77, has a rating.*like 0"),
    ],
)
def test_unusable_files_are_errors(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        found_in(csv(tmp_path, text))


def test_values_of_other_types_are_an_error(tmp_path):
    path = parquet(tmp_path, id=range(3), nested=[{"a": 1}, {"a": 2}, None])
    with pytest.raises(InputError, match=r"'nested' .* of type struct.*give numbers, text"):
        found_in(path)


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="there is no file or folder"):
        found_in(str(tmp_path / "none.csv"))


@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-2, 15)),
            st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))),
            st.one_of(st.none(), st.lists(st.sampled_from("ABCD "), max_size=3)),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(deadline=None, max_examples=60)
def test_every_row_is_used_or_counted(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    ids, numbers, genres = zip(*rows, strict=True)
    path = parquet(
        folder,
        id=pa.array(ids, pa.int64()),
        number=pa.array(numbers, pa.float64()),
        genres=pa.array(genres, pa.list_(pa.string())),
    )
    last = {own: row for row, own in enumerate(ids) if own is not None}
    if not any(own in range(10) for own in last):
        with pytest.raises(InputError, match="none of the"):
            found_in(path)
        return
    found = found_in(path)
    assert (found.n_rows, found.without_id) == (len(rows), ids.count(None))
    assert found.repeated == len(rows) - ids.count(None) - len(last)
    all_ids = with_ids(IDS, found)["id"].to_pylist()
    assert all_ids == sorted({*range(10), *last})
    if not says_anything(IDS["id"].to_pylist(), last, numbers, genres):
        with pytest.raises(InputError, match="says anything"):
            written(folder, path)
        return
    made, matrix = written(folder, path)
    assert np.isfinite(matrix).all()
    rated = [own for own in last if own in range(10)]
    assert made.counts["without_ratings"] == len(last) - len(rated)
    assert made.counts["without_attributes"] == 10 - len(rated)
    first = 0
    for attribute in made.attributes:
        for place, name in enumerate(attribute.categories):
            has = {own for own, row in last.items() if name in map(str.strip, genres[row] or [])}
            assert {all_ids[row] for row in np.flatnonzero(matrix[:, first + place])} == has
            assert len(has & {*range(10)}) >= LEAST_ROWS
        first += attribute.n_columns
    assert first == matrix.shape[1]


def says_anything(known, last, numbers, genres):
    """Tell whether numbers differ, or a category is often enough, among known ids."""
    rows = [row for own, row in last.items() if own in known]
    finite = {
        numbers[row] for row in rows if numbers[row] is not None and numbers[row] == numbers[row]
    }
    texts = [text for row in rows for text in {part.strip() for part in genres[row] or []} - {""}]
    return len(finite) > 1 or any(texts.count(text) >= LEAST_ROWS for text in texts)


@given(order=st.permutations(range(12)))
@settings(deadline=None, max_examples=20)
def test_the_order_of_the_file_does_not_show(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("order")
    table = pa.table(
        {
            "id": pa.array(range(12)),
            "number": pa.array([0.1 * i**3 for i in range(12)]),
            "text": pa.array(["AB"[i % 2] for i in range(12)]),
        }
    )
    records = []
    for rows in (table, table.take(pa.array(order))):
        records.append(written(folder, parquet(folder, **{n: rows[n] for n in rows.column_names})))
    assert records[0][0] == records[1][0]
    assert records[0][1].tobytes() == records[1][1].tobytes()


def test_unknown_categories_have_no_column(tmp_path):
    path = parquet(tmp_path, id=range(12), text=[*"AB" * 5, "Z", "A"])
    made, matrix = written(tmp_path, path)
    assert made.attributes[0].categories == ("A", "B")
    assert matrix[10].tolist() == [0, 0]
    assert matrix[11].tolist() == [1, 0]


def test_ids_that_are_text_stay_text(tmp_path):
    ids = pa.table({"id": pa.array(["01", "1", "x"]), "count": pa.array([1, 1, 1])})
    found = found_in(csv(tmp_path, "id,n\n01,5\n1,6\ny,7\n"), ids)
    assert found.table.to_pydict() == {"id": ["01", "1", "y"], "n": [5.0, 6.0, 7.0]}


def test_stored_attributes_are_kept_where_a_file_has_none(tmp_path):
    before = pa.table({"id": pa.array(range(10)), "year": pa.array([2000.0] * 10)})
    path = str(tmp_path / "stored.parquet")
    pq.write_table(before, path)
    file = csv(tmp_path, "id,year,new\n3,1990,A\n12,1991,B\n")
    found = read_attributes(
        AttributeFile(file, ITEMS, Columns()), StoredAttributes(path, crc32_of(path)), IDS
    )
    assert isinstance(found, FoundAttributes)
    years = dict(zip(found.table["id"].to_pylist(), found.table["year"].to_pylist(), strict=True))
    assert years == {**dict.fromkeys(range(10), 2000.0), 3: 1990.0, 12: 1991.0}
    assert found.repeated == 0


def frame_of(n_items=12):
    return pd.DataFrame(
        {"movieId": range(n_items), "year": range(1990, 1990 + n_items), "kind": list("ABC" * 4)}
    )


def test_a_dataset_has_rows_for_ids_that_only_have_attributes(tmp_path):
    source = str(write_csv(tmp_path / "r.csv", RATINGS))
    frame_of().to_csv(tmp_path / "a.csv", index=False)
    files = {ITEMS: str(tmp_path / "a.csv")}
    made = []
    for partitions in (1, 3):
        dataset = prepare(
            source,
            str(tmp_path / f"d{partitions}"),
            SerialExecutor(),
            settings=PrepareSettings(partitions=partitions),
            attributes=files,
        )
        assert open_dataset(dataset.path) == dataset
        assert dataset.items.n_rows == 12
        assert dataset.read_rows(ITEMS)["count"].to_pylist() == [6] * 8 + [0] * 4
        assert dataset.attributes(USERS) is None
        assert attributes_path(dataset.path, ITEMS) in dataset.files()
        made.append((dataset.fingerprint, dataset.item_attributes))
    assert made[0] == made[1]
    without = prepare(source, str(tmp_path / "without"), SerialExecutor())
    assert without.fingerprint != made[0][0]
    assert "attributes" not in (tmp_path / "without/manifest.json").read_text()


def test_appending_comes_to_what_all_at_once_does(tmp_path):
    first, second = (str(write_csv(tmp_path / f"{n}.csv", RATINGS[n::2])) for n in (0, 1))
    frame_of().to_csv(tmp_path / "a.csv", index=False)
    files = {ITEMS: str(tmp_path / "a.csv")}
    grown = str(tmp_path / "grown")
    prepare(first, grown, SerialExecutor(), attributes=files)
    dataset = append(second, grown, SerialExecutor())
    whole = str(write_csv(tmp_path / "whole.csv", RATINGS))
    expected = prepare(whole, str(tmp_path / "at-once"), SerialExecutor(), attributes=files)
    assert dataset.item_attributes.attributes == expected.item_attributes.attributes
    assert dataset.fingerprint == expected.fingerprint
