import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from dask_als.core.typed_tables import from_manifest, from_table, to_table
from dask_als.errors import InputError


@dataclass(frozen=True)
class Inner:
    size: int = 1

    def __post_init__(self):
        if self.size < 1:
            raise InputError(f"size is {self.size}")


@dataclass(frozen=True)
class Outer:
    name: str
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    minutes: float | None = None
    steps: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    inner: Inner = Inner()


WHOLE = {
    "name": "n",
    "share": 1.0,
    "kind": "b",
    "minutes": 2.5,
    "steps": ["x", "y"],
    "labels": {"zone": "eu"},
    "inner": {"size": 3},
}


def test_there_and_back():
    made = from_table(Outer, WHOLE)
    assert made == Outer("n", 1.0, "b", 2.5, ("x", "y"), {"zone": "eu"}, Inner(3))
    assert to_table(made) == WHOLE


def test_defaults():
    assert from_table(Outer, {"name": "n"}) == Outer("n")
    assert "minutes" not in to_table(Outer("n"))


def test_a_whole_number_is_a_number():
    assert type(from_table(Outer, {"name": "n", "share": 1}).share) is float


@pytest.mark.parametrize(
    ("table", "mistake"),
    [
        ({}, "name is missing"),
        ({"name": 1}, "name is 1; it must be a text"),
        ({"name": "n", "share": True}, "share is True; it must be a number"),
        ({"name": "n", "kind": "c"}, "kind is 'c'; it must be a or b"),
        ({"name": "n", "minutes": "2"}, "minutes is '2'; it must be a number"),
        ({"name": "n", "steps": "x"}, "steps is 'x'; it must be a list"),
        ({"name": "n", "steps": [1]}, "steps is 1; it must be a text"),
        ({"name": "n", "labels": {"zone": 1}}, "labels.zone is 1; it must be a text"),
        ({"name": "n", "labels": 1}, "labels is 1; it must be a table"),
        ({"name": "n", "inner": 1}, "inner is 1; it must be a table"),
        ({"name": "n", "inner": {"size": 1.5}}, "inner.size is 1.5; it must be a whole number"),
        ({"name": "n", "inner": {"size": 0}}, "[inner] size is 0"),
        ({"name": "n", "inner": {"siz": 1}}, "inner.siz is not known; the nearest is inner.size"),
        ({"nme": "n"}, "nme is not known; the nearest is name; name is missing"),
    ],
)
def test_what_is_wrong_is_named(table, mistake):
    with pytest.raises(InputError) as raised:
        from_table(Outer, table)
    assert str(raised.value) == mistake


def test_all_mistakes_at_once():
    with pytest.raises(InputError, match=r"share is 'x'.*; inner\.siz is not known"):
        from_table(Outer, {"name": "n", "share": "x", "inner": {"siz": 1}})


@dataclass(frozen=True)
class Named:
    name: str | None = "rating"
    other: str | None = None


def test_none_where_it_is_not_the_default_is_an_empty_text():
    assert to_table(Named(None)) == {"name": ""}
    assert from_table(Named, {"name": ""}) == Named(None)
    assert from_table(Named, to_table(Named("r", "o"))) == Named("r", "o")


@dataclass(frozen=True)
class Said:
    counts: tuple[int, ...]
    mean: float = 0.0
    note: str | None = "none"
    anything: Any = None


def test_what_a_manifest_says():
    said = {"counts": [1, 2], "mean": 3, "note": None, "anything": {"a": [1, "b"]}}
    found = from_manifest(Said, json.loads(json.dumps(said)), "m.json")
    assert found == Said((1, 2), 3.0, None, {"a": [1, "b"]})
    assert type(found.mean) is float


@pytest.mark.parametrize(
    ("said", "mistake"),
    [
        ([], "not a JSON object"),
        ({}, "counts is missing"),
        ({"counts": [1, None]}, "counts is None; it must be a whole number"),
        (
            {"counts": [], "mean": 10**400},
            f"mean is 1{'0' * 17}...{'0' * 19}; it must be a number of at most 1.8e308",
        ),
        (
            {"counts": [2**63]},
            "counts is 9223372036854775808; it must be a number of at most 64 bits",
        ),
        ({"counts": [], "mean": None}, "mean is None; it must be a number"),
    ],
)
def test_what_is_wrong_with_a_manifest(said, mistake):
    with pytest.raises(InputError) as raised:
        from_manifest(Said, said, "m.json")
    assert str(raised.value) == f"m.json is damaged: {mistake}"


def test_a_manifest_full_of_mistakes_takes_one_line():
    said = {"counts": 7, **{f"unknown{number}": 1 for number in range(9999)}}
    message = r"^m.json is damaged: unknown0 is not known; the nearest is note; .*…$"
    with pytest.raises(InputError, match=message) as raised:
        from_manifest(Said, said, "m.json")
    assert len(str(raised.value)) < 400


def test_keys_of_absurd_size_or_number_cost_little_time():
    huge = {"x" * 10**7: 1, **{f"key{number}": 1 for number in range(10**5)}}
    before = time.process_time()
    with pytest.raises(InputError) as raised:
        from_table(Outer, {"name": "n", **huge})
    assert time.process_time() - before < 1
    assert str(raised.value).startswith(f"{'x' * 100}… is not known; the nearest is ")
    assert str(raised.value).endswith("; 99,991 more keys are not known")
    assert len(str(raised.value)) < 2000


def test_a_number_of_absurd_size_is_named_briefly():
    with pytest.raises(InputError, match=r"share is a number with too many digits to show; it"):
        from_table(Outer, {"name": "n", "share": 1 << 10**6})
