"""A job with a schedule: each run appends what is new, trains on, and serves a complete model."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.jobs import steps, updates
from dask_als.jobs.job_file import Job, SourceSettings
from dask_als.jobs.kept_models import KeptModels
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.model.manifest import read_manifest
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.schedule import ScheduleSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
ROWS = generated(60, 80, 2000)
NIGHTS = [ROWS[:1500], ROWS[1500:1700], ROWS[1700:1850], ROWS[1850:]]


@pytest.fixture
def job(tmp_path):
    (tmp_path / "new").mkdir()
    return Job(
        name="nightly",
        output=str(tmp_path / "o"),
        source=SourceSettings(path=str(tmp_path / "new")),
        steps=("prepare", "train", "evaluate"),
        prepare=PrepareSettings(test_fraction=0.2, partitions=2),
        train=small_settings(epochs=8),
        schedule=ScheduleSettings(cron="@daily", epochs=2, keep=2),
    )


def arrives(job, night):
    """Put the ratings of a night into the source."""
    write_csv(Path(job.source.path) / f"night-{night}.csv", NIGHTS[night])


def run(job):
    with recorded(job) as result:
        run_job(job, SERIAL, result)
    return {step.step: step.status for step in result.steps}


def kept(job):
    return [Path(path).name for path in KeptModels(job.output, job.model).paths()]


def digest(path):
    parts = sorted(part for side in ("users", "items") for part in Path(path, side).iterdir())
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


DONE = dict.fromkeys(("prepare", "train", "evaluate"), "done")


def test_nights(job, tmp_path):
    served = []
    for night in range(4):
        arrives(job, night)
        assert run(job) == DONE
        served.append(digest(job.model))
        assert kept(job) == [f"model-{n:06d}" for n in range(max(1, night), night + 2)]
        newest = KeptModels(job.output, job.model).newest()
        assert read_manifest(newest) == read_manifest(job.model)
        manifest = read_manifest(job.model)
        assert manifest.dataset["fingerprint"] == open_dataset(job.dataset).fingerprint
        assert manifest.settings.epochs == (8 if night == 0 else 2)
        start = manifest.initial
        assert (start is None) == (night == 0)
        if start is not None:
            assert Path(start.path).name == f"model-{night:06d}"
        assert ALSModel.load(job.model).owns_dataset
    assert len(set(served)) == 4
    assert digest(f"{job.output}/model-000003") == served[2]
    at_once = prepare(job.source.path, str(tmp_path / "d"), SERIAL, settings=job.prepare)
    assert open_dataset(job.dataset).fingerprint == at_once.fingerprint
    record = json.loads(Path(job.output, "kept-models.json").read_text())
    assert set(record["models"]) >= set(kept(job))
    # A night without new ratings.
    assert run(job) == dict.fromkeys(DONE, "skipped")
    assert digest(job.model) == served[3]


def test_the_whole_source_is_read_only_if_files_have_changed(job, monkeypatch, caplog):
    prepared = []

    def noticed(*arguments):
        prepared.append(True)
        return prepare_step(*arguments)

    prepare_step = steps._prepare
    monkeypatch.setattr(steps, "_prepare", noticed)
    for night in range(2):
        arrives(job, night)
        run(job)
    assert len(prepared) == 1
    write_csv(Path(job.source.path) / "night-0.csv", NIGHTS[0][1:])
    arrives(job, 2)
    run(job)
    assert len(prepared) == 2
    assert f"anew: {Path(job.source.path) / 'night-0.csv'} has changed" in caplog.text
    assert open_dataset(job.dataset).source["rows"] == sum(map(len, NIGHTS[:3])) - 1
    os.remove(Path(job.source.path) / "night-1.csv")
    run(job)
    assert len(prepared) == 3
    assert f"anew: {Path(job.source.path) / 'night-1.csv'} is gone" in caplog.text


def test_why_a_file_is_not_appended(job, caplog):
    arrives(job, 0)
    run(job)
    (Path(job.source.path) / "night-1.csv").write_text("userId,movieId,rating\nu17,4,3.5\n")
    run(job)
    assert "night-1.csv cannot be appended: " in caplog.text
    assert "for instance 'u17'" in caplog.text
    assert "is prepared anew" in caplog.text
    assert "training starts from scratch: user ids are whole numbers in" in caplog.text
    assert read_manifest(job.model).initial is None


@pytest.mark.parametrize(
    "place",
    [
        *("append", "record", "serve"),
        *(
            pytest.param(place, marks=pytest.mark.slow)
            for place in ("write_note", "train", "prune", "note of train")
        ),
    ],
)
def test_a_run_that_is_killed_anywhere(job, tmp_path, monkeypatch, place):
    """The served model is complete at every moment; the next run ends as an undisturbed one."""
    arrives(job, 0)
    run(job)
    before = digest(job.model)
    for night in (1, 2):
        arrives(job, night)
    with monkeypatch.context() as patch:
        die_at(patch, place)
        with pytest.raises(Killed):
            run(job)
    assert digest(job.model) == before or place in ("prune", "note of train")
    ALSModel.load(job.model)
    run(job)
    manifest = read_manifest(job.model)
    at_once = prepare(job.source.path, str(tmp_path / "d"), SERIAL, settings=job.prepare)
    assert manifest.dataset["fingerprint"] == at_once.fingerprint
    assert digest(KeptModels(job.output, job.model).newest()) == digest(job.model)
    assert len(kept(job)) == 2
    assert run(job) == dict.fromkeys(DONE, "skipped")


class Killed(BaseException):
    pass


def die_at(patch, place):
    """Raise in the second of two appended files, or in another place of the second run."""
    calls = []

    def dies(function, at, *arguments, **options):
        calls.append(1)
        if len(calls) >= at:
            raise Killed
        return function(*arguments, **options)

    target, at = {
        "append": (updates, 2),
        "write_note": (steps, 2),
        "train": (steps, 1),
        "record": (KeptModels, 2),
        "serve": (KeptModels, 1),
        "prune": (KeptModels, 1),
        "note of train": (steps, 4),
    }[place]
    name = {"note of train": "write_note", "record": "_write"}.get(place, place)
    function = getattr(target, name)
    patch.setattr(target, name, lambda *a, **o: dies(function, at, *a, **o))


def test_a_model_of_before_the_schedule_is_kept_and_trained_on(job):
    arrives(job, 0)
    run(replace(job, schedule=None))
    before = digest(job.model)
    arrives(job, 1)
    run(job)
    assert kept(job) == ["model-000001", "model-000002"]
    assert digest(f"{job.output}/model-000001") == before
    assert read_manifest(job.model).settings.epochs == 2


def test_other_settings_train_from_scratch(job, caplog):
    arrives(job, 0)
    run(job)
    other = replace(job, train=small_settings(epochs=8, rank=3))
    run(other)
    manifest = read_manifest(job.model)
    assert "model-000001 was trained with other settings" in caplog.text
    assert (manifest.settings.rank, manifest.settings.epochs) == (3, 8)
    assert manifest.initial is None


def test_the_update_is_nearly_as_good_as_training_from_scratch(job, tmp_path):
    arrives(job, 0)
    run(job)
    arrives(job, 1)
    run(job)
    dataset = open_dataset(job.dataset)
    scratch = train(dataset, str(tmp_path / "m"), job.train, SERIAL).figures.test_rmse
    assert read_manifest(job.model).figures.test_rmse < 1.05 * scratch


def test_models_of_somebody_else_are_neither_used_nor_removed(job, tmp_path):
    arrives(job, 0)
    run(job)
    made = Path(job.output) / "model-000001"
    # One that was there before the schedule, a copy of one that it made, and one in such a place.
    mine = {n: Path(job.output) / f"model-{n:06d}" for n in (1, 7, 9)}
    shutil.move(made, tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", mine[7])
    settings = small_settings(epochs=1)
    for n in (1, 9):
        train(open_dataset(job.dataset), str(mine[n]), settings, SERIAL)
    before = {n: content(path) for n, path in mine.items()}
    for night in (1, 2, 3):
        arrives(job, night)
        run(job)
        initial = read_manifest(job.model).initial
        assert initial is None or Path(initial.path) not in mine.values()
    assert {n: content(path) for n, path in mine.items()} == before
    assert kept(job) == ["model-000012", "model-000013"]


def test_a_model_that_somebody_puts_there_meanwhile_is_not_replaced(job, tmp_path, monkeypatch):
    arrives(job, 0)
    run(job)
    arrives(job, 1)
    place = Path(job.output) / "model-000002"

    def train_beside(*arguments, **options):
        shutil.copytree(job.model, place)
        return train(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "train", train_beside)
        with pytest.raises(InputError, match="model-000002 exists already"):
            run(job)
    assert digest(place) == digest(job.model)
    run(job)
    assert kept(job) == ["model-000001", "model-000003"]


def test_a_model_in_the_place_of_the_one_that_a_killed_run_made_is_not_taken_for_it(
    job, monkeypatch
):
    arrives(job, 0)
    run(job)
    arrives(job, 1)
    with monkeypatch.context() as patch:
        die_at(patch, "train")
        with pytest.raises(Killed):
            run(job)
    place = Path(job.output) / "model-000002"
    train(open_dataset(job.dataset), str(place), small_settings(epochs=1, seed=5), SERIAL)
    before = content(place)
    for night in (2, 3):
        run(job)
        arrives(job, night)
    run(job)
    assert content(place) == before
    assert kept(job) == ["model-000004", "model-000005"]


@pytest.mark.parametrize("text", ["", "{}", '{"models": [], "begun": {}}', "[]"])
def test_a_record_that_is_damaged_or_not_ours_is_told(job, text):
    Path(job.output).mkdir()
    Path(job.output, "kept-models.json").write_text(text)
    arrives(job, 0)
    with pytest.raises(InputError, match=r"kept-models\.json"):
        run(job)
    assert Path(job.output, "kept-models.json").read_text() == text
    mark = json.dumps({"made_by": "dask_als", "kind": "record of kept models", "models": []})
    Path(job.output, "kept-models.json").write_text(mark)
    with pytest.raises(InputError, match=r"kept-models\.json is damaged"):
        run(job)


def test_a_stranger_in_a_kept_model_stays(job):
    for night in range(2):
        arrives(job, night)
        run(job)
    mine = Path(job.output) / "model-000001" / "mine.txt"
    mine.write_text("mine")
    arrives(job, 2)
    with pytest.raises(InputError, match=r"holds mine\.txt, which dask-als did not make"):
        run(job)
    assert mine.read_text() == "mine"
    # The new model is complete and served nevertheless.
    fingerprint = read_manifest(job.model).dataset["fingerprint"]
    assert fingerprint == open_dataset(job.dataset).fingerprint


def test_what_is_new():
    noted = {"files": {"a": [1, "x"], "t": [5, "x"]}, "seed": 0}

    def new(files, **settings):
        found = updates.new_files(noted, {"files": files, "seed": 0, **settings}, {"t"})
        return found if isinstance(found, str) else list(found.new)

    assert new({"a": [1, "x"], "c": [2, "y"], "b": [1, "y"], "t": [5, "x"]}) == ["b", "c"]
    assert new({"a": [1, "x"], "b": [1, "y"], "t": [6, "z"]}) == ["b"]
    assert new({"a": [1, "x"], "t": [5, "x"]}) == "it has no new file"
    assert new({"b": [1, "x"], "t": [5, "x"]}) == "a is gone"
    assert new({"a": [1, "z"], "b": [1, "y"]}) == "a has changed"
    assert new({"a": [1, "x"], "b": [1, "y"]}, seed=1) == "its settings have changed"
    assert isinstance(updates.new_files({}, {"files": {"b": [1, "y"]}}, set()), str)
    assert json.loads(json.dumps(noted)) == noted
