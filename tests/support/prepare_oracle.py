"""What `prepare` should make of a source, in plain Python; it imports nothing of ours."""

import datetime
import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

WHOLE = re.compile(r"\s*(0|-?[1-9][0-9]*)(\.0*)?\s*")


@dataclass
class Expected:
    """Ratings are {(user id, item id): rating}; rejected ones (file, row)."""

    users: list = field(default_factory=list)
    items: list = field(default_factory=list)
    kept: dict = field(default_factory=dict)
    test: dict = field(default_factory=dict)
    rejected: list = field(default_factory=list)
    n_rows: int = 0
    n_merged: int = 0


def expected(files, *, duplicates="last", test_fraction=0.0, split=None, has_time=True):
    """Say what becomes of files of records.

    Parameters
    ----------
    files : dict of str to list of tuples
        Name -> records (user, item, rating, time), each as text or None.
    """
    result = Expected()
    usable = []
    for name, records in files.items():
        for row, record in enumerate(records, start=1):
            result.n_rows += 1
            user, item = (text(value) for value in record[:2])
            rating = float32(number(record[2]))
            time = moment(record[3]) if has_time else 0.0
            if time is None and split != "latest":
                time = -math.inf
            if None in (user, item, rating, time):
                result.rejected.append((name, row))
            else:
                usable.append((user, item, rating, time))
    user_type, item_type = (id_type([r[side] for r in usable]) for side in (0, 1))
    ratings = {}
    for place, (user, item, rating, time) in enumerate(usable):
        ratings.setdefault((user_type(user), item_type(item)), []).append((time, place, rating))
    result.users = in_order({user for user, _ in ratings})
    result.items = in_order({item for _, item in ratings})
    times = {}
    for pair, several in ratings.items():
        times[pair], _, last = max(several)
        mean = float32(sum(sorted(rating for _, _, rating in several)) / len(several))
        result.kept[pair] = mean if duplicates == "mean" else last
        result.n_merged += len(several) - 1
    if split == "latest":
        for user in result.users:
            its = sorted(
                (times[pair], result.items.index(pair[1]), pair)
                for pair in result.kept
                if pair[0] == user
            )
            n_test = min(math.floor(len(its) * test_fraction + 0.5), len(its) - 1)
            for _, _, pair in its[len(its) - n_test :]:
                result.test[pair] = result.kept[pair]
    return result


def in_order(ids):
    return sorted(ids, key=lambda id_: id_.encode() if isinstance(id_, str) else id_)


def text(value):
    return value if value is not None and value.strip() else None


def number(value):
    try:
        # Python takes 1_0 for 10.
        return float(value.strip().replace("_", "?"))
    except (ValueError, AttributeError):
        return None


def float32(value):
    """Round to float32; None if it is not finite then."""
    if value is None or not math.isfinite(value):
        return None
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return None


def moment(value):
    found = number(value)
    if found is not None:
        return found if math.isfinite(found) else None
    try:
        date = datetime.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return float((date - epoch) // datetime.timedelta(microseconds=1))


def id_type(texts):
    """Return what makes ids of text: int if all are whole and fit into 64 bits, else as it is."""
    found = [WHOLE.fullmatch(value) for value in texts]
    if all(found):
        values = [int(match.group(1)) for match in found]
        for low, high in ((-(2**63), 2**63), (0, 2**64)):
            if all(low <= value < high for value in values):
                return lambda value: int(WHOLE.fullmatch(value).group(1))
    return str


@dataclass
class Written:
    """What a dataset's files hold, read without any of our code."""

    users: list
    items: list
    counts: dict
    by_user: dict
    by_item: dict
    test: dict
    rejected: list


def written(dataset):
    """Read a dataset's files, and check that each partition is sorted."""
    dataset = Path(dataset)
    ids = {side: pq.read_table(dataset / f"{side}.parquet") for side in ("users", "items")}
    users, items = (ids[side]["id"].to_pylist() for side in ("users", "items"))
    ratings = {}
    for folder in ("by_user", "by_item", "test"):
        ratings[folder] = {}
        order = ("item", "user") if folder == "by_item" else ("user", "item")
        last = (-1, -1)
        for part in sorted((dataset / folder).glob("part-*.parquet")):
            for row in pq.ParquetFile(part).read().to_pylist():
                place = tuple(row[name] for name in order)
                assert last < place, f"{part} is not sorted"
                last = place
                ratings[folder][users[row["user"]], items[row["item"]]] = row["rating"]
    rejected = dataset / "rejected.parquet"
    return Written(
        users,
        items,
        {side: table["count"].to_pylist() for side, table in ids.items()},
        ratings["by_user"],
        ratings["by_item"],
        ratings["test"],
        pq.read_table(rejected).to_pylist() if rejected.exists() else [],
    )
