from dataclasses import replace

import pytest
from support.data import generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, append, prepare
from dask_als.errors import InputError
from dask_als.jobs.job_file import read_job
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.jobs.tuned_job import check_job_path, tuned_job, write_job
from dask_als.settings.data import Columns, PrepareSettings

SERIAL = SerialExecutor()
HEADER = ("userId", "movieId", "rating")
TRAIN = small_settings()
ROWS = generated(40, 30, 600)
EVENTS = [(user, item, round(100 * rating)) for user, item, rating in ROWS]


def as_events(directory):
    """Events without ratings, with names of their own, titles, and the latest held out."""
    header = ("who", "what", "when")
    source = write_csv(directory / "events.csv", [*EVENTS, *EVENTS[:50]], header=header)
    items = sorted({item for _, item, _ in EVENTS})
    names = [(item, f"Thing {item}") for item in items]
    titles = write_csv(directory / "things.csv", names, header=("what", "name"))
    return prepare(
        str(source),
        str(directory / "d"),
        SERIAL,
        columns=Columns(user="who", item="what", rating=None, time="when"),
        settings=PrepareSettings(test_fraction=0.2, split="latest", duplicates="sum"),
        titles=Titles(str(titles), "name"),
    )


def as_ratings(directory):
    """Ratings, all to train on."""
    source = write_csv(directory / "r.csv", ROWS)
    return prepare(str(source), str(directory / "d"), SERIAL)


def as_folds(directory):
    """Ratings with a test source of their own, and a filter."""
    train = write_csv(directory / "train.csv", ROWS[:500])
    test = write_csv(directory / "test.csv", ROWS[500:])
    settings = PrepareSettings(least_user_ratings=4, least_item_ratings=2)
    return prepare(str(train), str(directory / "d"), SERIAL, settings=settings, test=str(test))


def as_weighted_ratings(directory):
    """Ratings with a column of weights, which also decay."""
    rows = [(*row, 10**9 + 10**6 * number, 1 + number % 3) for number, row in enumerate(ROWS)]
    source = write_csv(directory / "r.csv", rows, (*HEADER, "timestamp", "trust"))
    columns, settings = Columns(weight="trust"), PrepareSettings(half_life=500)
    return prepare(str(source), str(directory / "d"), SERIAL, columns=columns, settings=settings)


def as_late_ratings(directory):
    """Ratings of which all from a time on are held out."""
    rows = [(*row, number) for number, row in enumerate(ROWS)]
    header = ("userId", "movieId", "rating", "timestamp")
    source = write_csv(directory / "r.csv", rows, header)
    settings = PrepareSettings(split="time", test_from="500")
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


@pytest.mark.parametrize(
    "prepared", [as_events, as_ratings, as_folds, as_late_ratings, as_weighted_ratings]
)
def test_the_job_makes_the_same_dataset_again(prepared, tmp_path):
    dataset = prepared(tmp_path)
    path = str(tmp_path / "tuned.toml")
    write_job(path, tuned_job(dataset, TRAIN, path), "0.8 by cross-validation")
    job = read_job(path)
    assert job.train == TRAIN
    assert ("evaluate" in job.steps) == bool(dataset.n_test)
    with recorded(job) as result:
        run_job(replace(job, steps=("prepare",)), SERIAL, result)
    again = read_job(path).dataset
    assert open_dataset(again).fingerprint == dataset.fingerprint
    assert open_dataset(again).has_titles == dataset.has_titles


@pytest.mark.parametrize(
    ("path", "name", "output"),
    [
        ("My Settings (2).toml", "my-settings-2", "My Settings (2)"),
        ("here/!!.toml", "tuned", "here/!!"),
        ("s3://bucket/a/b.toml", "b", "s3://bucket/a/b"),
    ],
)
def test_names(tmp_path, path, name, output):
    job = tuned_job(as_ratings(tmp_path), TRAIN, path)
    assert (job.name, job.output) == (name, output)


def test_a_dataset_of_before(tmp_path):
    dataset = as_ratings(tmp_path)
    old = {name: value for name, value in dataset.source.items() if name != "columns"}
    with pytest.raises(InputError, match="prepare it again"):
        tuned_job(replace(dataset, source=old), TRAIN, "t.toml")


def test_a_dataset_that_has_grown(tmp_path):
    dataset = as_ratings(tmp_path)
    more = write_csv(tmp_path / "more.csv", [(1, 2, 3.0)])
    with pytest.raises(InputError, match="others were appended to it, which a job file cannot"):
        tuned_job(append(str(more), dataset.path, SERIAL), TRAIN, "t.toml")


def test_paths(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.toml"):
        check_job_path("job.json", overwrite=True)
    path = tmp_path / "t.toml"
    check_job_path(str(path), overwrite=False)
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        check_job_path(str(path), overwrite=False)
    with pytest.raises(InputError, match="is not a dask-als tuned job"):
        check_job_path(str(path), overwrite=True)
    path.unlink()
    write_job(str(path), tuned_job(as_ratings(tmp_path), TRAIN, str(path)), "0.8")
    check_job_path(str(path), overwrite=True)
