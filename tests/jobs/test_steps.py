import hashlib
import json
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from support.data import MOVIELENS, content, generated, notebook_settings, small_settings, write_csv

from dask_als.core import json_files, output_lock, parquet_manifest
from dask_als.core.executor import SerialExecutor
from dask_als.core.ownership import OLD_RECOMMENDATIONS, RECOMMENDATIONS
from dask_als.core.run_events import Listener
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.evaluation.evaluate import evaluate
from dask_als.jobs.job_file import STEPS, Job, SourceSettings, read_job
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.jobs.watcher import Unwatched
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings, RecommendSettings
from dask_als.settings.training import CheckpointPolicy
from dask_als.training.checkpoints import complete_checkpoints
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture
def job(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(40, 50, 900))
    return Job(
        name="small",
        output=str(tmp_path / "o"),
        source=SourceSettings(path=str(source)),
        prepare=PrepareSettings(test_fraction=0.2, partitions=2),
        train=small_settings(epochs=6),
        checkpoint=CheckpointPolicy(every=2),
    )


def run(job, executor=SERIAL, watcher=None):
    with recorded(job) as result:
        run_job(job, executor, result, watcher=watcher)
    return result


def how(result):
    return {step.step: step.status for step in result.steps}


def reasons(result):
    return {step.step: step.reason for step in result.steps if step.status == "done"}


ALL_DONE = dict.fromkeys(STEPS, "done")
ALL_SKIPPED = dict.fromkeys(STEPS, "skipped")


@pytest.fixture
def undisturbed(job, tmp_path):
    """The model that the commands make, step by step."""
    dataset = prepare(job.source.path, str(tmp_path / "d"), SERIAL, settings=job.prepare)
    train(dataset, str(tmp_path / "m"), job.train, SERIAL)
    return content(str(tmp_path / "m"))


@pytest.mark.parametrize("cluster", ["serial", "dask"])
def test_the_same_bits_as_by_hand(job, undisturbed, client, cluster):
    from dask_als.cluster.dask_executor import DaskExecutor

    executor = SERIAL if cluster == "serial" else DaskExecutor(client)
    assert how(run(job, executor)) == ALL_DONE
    assert content(job.model) == undisturbed


def test_what_the_result_says(job):
    result = run(job)
    assert json_files.without_marks(json_files.read_json(job.result)) == result.to_json()
    prepared, trained, evaluated, recommended = (step.figures for step in result.steps)
    assert (prepared["users"], prepared["rows"]) == (40, 900)
    assert trained["epoch"] == 6
    assert evaluated["rmse"]["model"] == pytest.approx(trained["test_rmse"], rel=1e-12)
    assert set(evaluated["rmse"]) == {"model", "global mean", "biases alone"}
    assert set(evaluated["ndcg"]) == {"model", "biases alone", "most popular"}
    items, users = (pq.read_table(f"{job.dataset}/{name}.parquet") for name in ("items", "users"))
    unrated = [items.num_rows - count for count in users["count"].to_pylist()]
    assert recommended == {"rows": 40, "recommendations": sum(min(10, n) for n in unrated)}


def test_the_settings_of_evaluation_and_recommendations(job):
    run(job)
    other = replace(job, evaluate=EvaluateSettings(k=3), recommend=RecommendSettings(k=2))
    result = run(other)
    assert reasons(result) == {"evaluate": "changed: k", "recommend": "changed: k"}
    assert json.loads(Path(job.evaluation).read_text())["settings"]["k"] == 3
    parts = [pq.read_table(part) for part in Path(job.recommendations).glob("part-*")]
    assert {rank for part in parts for rank in part["rank"].to_pylist()} == {1, 2}


def test_the_evaluation_is_that_of_the_command(job):
    run(job)
    by_hand = evaluate(job.model, open_dataset(job.dataset), SERIAL, job.evaluate)
    assert json_files.without_marks(json_files.read_json(job.evaluation)) == by_hand.to_json()


def test_what_is_replaced_is_said(job):
    assert {step.step: step.replaced for step in run(job).steps} == {name: [] for name in STEPS}
    more = replace(job, train=replace(job.train, epochs=8))
    assert replaced(run(more))["train"] == [job.model]
    other = replace(job, train=replace(job.train, rank=3))
    hearing = Hearing()
    assert replaced(run(other, watcher=hearing)) == {
        "prepare": [],
        "train": [job.model, job.checkpoints],
        "evaluate": [job.evaluation],
        "recommend": [job.recommendations],
    }
    assert hearing.heard["train"] == [job.model, job.checkpoints]


class Hearing(Unwatched):
    """Notes down what is replaced."""

    def __init__(self):
        self.heard = {}

    def started(self, step, reason, replaced):
        self.heard[step] = replaced


def replaced(result):
    return {step.step: step.replaced for step in result.steps}


def test_other_titles_are_recommended(job, tmp_path):
    item = generated(40, 50, 900)[0][1]
    titles = write_csv(tmp_path / "t.csv", [(item, "One")], header=("movieId", "title"))
    titled = replace(job, source=replace(job.source, titles=str(titles)))
    run(titled)
    write_csv(titles, [(item, "Another")], header=("movieId", "title"))
    assert reasons(run(titled)) == {"prepare": "changed: files", "recommend": "changed: titles"}


def test_nothing_is_done_twice(job):
    first = run(job)
    again = run(job)
    assert how(again) == ALL_SKIPPED
    assert [step.figures for step in again.steps] == [step.figures for step in first.steps]


def test_only_what_has_changed_is_done_again(job):
    run(job)
    other = replace(job, train=replace(job.train, rank=3))
    assert reasons(run(other)) == {
        "train": "changed: rank",
        "evaluate": "changed: model",
        "recommend": "changed: model",
    }
    split = replace(job, prepare=replace(job.prepare, seed=1), train=other.train)
    result = run(split)
    assert how(result) == ALL_DONE
    assert reasons(result)["prepare"] == "changed: seed"
    assert reasons(result)["train"] == "changed: dataset"
    assert how(run(split)) == ALL_SKIPPED


def test_another_source(job):
    run(job)
    write_csv(job.source.path, generated(40, 50, 800))
    assert reasons(run(job))["prepare"] == "changed: files"


def test_other_partitions_are_other_files_of_the_same_ratings(job):
    run(job)
    finer = replace(job, prepare=replace(job.prepare, partitions=3))
    assert reasons(run(finer)) == {"prepare": "changed: partitions"}
    assert len(open_dataset(job.dataset).users.partitions) == 3


def test_what_somebody_else_made_is_made_again(job, undisturbed):
    run(job)
    train(open_dataset(job.dataset), job.model, small_settings(epochs=1), SERIAL, overwrite=True)
    assert reasons(run(job))["train"] == "the output was not made by a job"
    assert content(job.model) == undisturbed
    with open(f"{job.model}/model.json", "a") as file:
        file.write("\n")
    assert reasons(run(job))["train"] == "the output was changed after the last run"
    with open(f"{job.model}/step.json", "w") as file:
        file.write("[]")
    with pytest.raises(InputError, match=r"holds step.json, which dask-als did not make"):
        run(job)


class Stop(Exception):
    """Ends a training at an epoch."""


class Stopping(Unwatched):
    """Stops a job at an epoch, and notes down all epochs."""

    def __init__(self, at=None):
        self.at = at
        self.seen = []

    def training(self, n_epochs):
        from contextlib import nullcontext

        def on_epoch(figures):
            self.seen.append(figures.epoch)
            if figures.epoch == self.at:
                raise Stop("half-way")

        return nullcontext(Listener(epoch=on_epoch))


def test_a_broken_job_goes_on(job, undisturbed):
    with pytest.raises(Stop):
        run(job, watcher=Stopping(at=5))
    written = json.loads(Path(job.result).read_text())
    assert (written["status"], written["error"]) == ("failed", "Stop: half-way")
    assert [step["status"] for step in written["steps"]] == ["done", "failed"]
    rest = Stopping()
    assert how(run(job, watcher=rest)) == {**ALL_DONE, "prepare": "skipped"}
    assert rest.seen == [5, 6]
    assert content(job.model) == undisturbed


def test_checkpoints_of_other_settings_are_not_gone_on_from(job, tmp_path):
    with pytest.raises(Stop):
        run(job, watcher=Stopping(at=5))
    other = replace(job, train=replace(job.train, seed=9))
    whole = Stopping()
    run(other, watcher=whole)
    assert whole.seen == [1, 2, 3, 4, 5, 6]


def test_more_epochs_go_on(job):
    run(job)
    more = Stopping()
    result = run(replace(job, train=replace(job.train, epochs=8)), watcher=more)
    assert reasons(result)["train"] == "changed: epochs"
    assert more.seen == [5, 6, 7, 8]


def test_a_missing_source(job):
    missing = replace(job, source=SourceSettings(path="no.csv"))
    with pytest.raises(InputError, match="no file or folder"):
        run(missing)
    written = json.loads(Path(job.result).read_text())
    assert (written["status"], written["exit_code"]) == ("failed", 2)
    assert written["steps"][0]["status"] == "failed"


def test_nothing_is_held_out(job):
    plain = replace(job, prepare=PrepareSettings(), steps=("prepare", "train"))
    assert how(run(plain)) == {"prepare": "done", "train": "done"}
    with pytest.raises(InputError, match="no held-out ratings; set prepare"):
        run(replace(plain, steps=("evaluate",)))


def test_on_an_object_store(job, undisturbed, monkeypatch):
    """Dataset, checkpoints, model and result; also what was broken off."""
    far = replace(job, output="memory://run-job/o")
    monkeypatch.setattr(output_lock, "_SECONDS_TO_SETTLE", 0.01)
    with pytest.raises(Stop):
        run(far, watcher=Stopping(at=5))
    assert complete_checkpoints(far.checkpoints)[-1].endswith("/epoch-00004")
    rest = Stopping()
    run(far, watcher=rest)
    assert rest.seen == [5, 6]
    assert content(far.model) == undisturbed
    assert how(run(far)) == ALL_SKIPPED
    assert fsspec.filesystem("memory").isfile("/run-job/o/result.json")


@pytest.mark.slow
@pytest.mark.skipif(MOVIELENS is None, reason="real ratings are not beside the repository")
def test_the_notebooks_job_is_prepare_and_train_by_hand(tmp_path):
    dataset = prepare(str(MOVIELENS.parent), str(tmp_path / "d"), SERIAL)
    train(dataset, str(tmp_path / "m"), notebook_settings(epochs=100), SERIAL)
    changes = [f'output="{tmp_path}/o"', f'source.path="{MOVIELENS.parent}"']
    run(read_job("jobs/notebook.toml", changes))
    assert content(str(tmp_path / "o" / "model")) == content(str(tmp_path / "m"))


def test_recommendations_of_earlier_releases_are_kept_until_they_change(job):
    run(job)
    out = Path(job.recommendations)
    assert {path.suffix for path in out.iterdir()} == {".parquet"}
    manifest = out / RECOMMENDATIONS.manifest
    value = parquet_manifest.read_value(str(manifest))
    del value["checksum"]
    old = out / OLD_RECOMMENDATIONS.manifest
    json_files.write_with_checksum(str(old), value)
    manifest.unlink()
    note = Path(f"{out}.step.json")
    digest = hashlib.sha256(old.read_bytes()).hexdigest()
    (out / "step.json").write_text(json.dumps({**json.loads(note.read_text()), "sha256": digest}))
    note.unlink()
    assert reasons(run(job)) == {}
    changed = replace(job, recommend=RecommendSettings(k=2))
    assert reasons(run(changed)) == {"recommend": "changed: k"}
    assert {path.suffix for path in out.iterdir()} == {".parquet"}
    assert reasons(run(changed)) == {}


def test_a_foreign_file_in_place_of_the_note_of_recommendations(job):
    note = Path(f"{job.recommendations}.step.json")
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("precious")
    with pytest.raises(InputError, match="exists and is not a dask-als step note"):
        run(job)
    assert note.read_text() == "precious"
