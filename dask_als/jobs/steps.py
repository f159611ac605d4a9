"""Run the steps of a job; skip a step whose output is up to date.

Each step writes a note beside its output with its inputs and settings. The next run skips the step
if inputs and settings are the same and the output is unchanged.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, fields
from typing import Any, TypedDict

from dask_als.core import checksums, json_files, outputs, storage
from dask_als.core.executor import Executor
from dask_als.core.ownership import (
    DATASET,
    EVALUATION,
    MODEL,
    RECOMMENDATIONS,
    STEP_NOTE_NAME,
    Kind,
)
from dask_als.core.side import ITEMS
from dask_als.core.typed_tables import from_manifest
from dask_als.data.dataset import Dataset, open_dataset, rows_path
from dask_als.data.prepare import Titles, prepare
from dask_als.data.source import open_source
from dask_als.errors import InputError
from dask_als.evaluation.evaluate import evaluate
from dask_als.evaluation.results import Evaluation
from dask_als.jobs import updates
from dask_als.jobs.job_file import Job, SourceSettings
from dask_als.jobs.kept_models import KeptModels
from dask_als.jobs.result import JobResult, StepResult, in_a_line
from dask_als.jobs.step import Step, changed_file, noted_inputs, reason_to_run, write_note
from dask_als.jobs.watcher import Unwatched, Watcher
from dask_als.model import manifest as model_manifest
from dask_als.model import recommend
from dask_als.model.manifest import read_manifest
from dask_als.settings.training import CheckpointSettings
from dask_als.training.checkpoints import check_continues, clear_checkpoints, complete_checkpoints
from dask_als.training.train import train

_LOG = logging.getLogger(__name__)

# They are in a note only if they are set.
_LATER_SETTINGS = (
    "test",
    "test_from",
    "least_user_ratings",
    "least_item_ratings",
    "user_attributes",
    "item_attributes",
)


def run_job(
    job: Job, executor: Executor, result: JobResult, *, watcher: Watcher | None = None
) -> None:
    """Run the steps of a job in order.

    Parameters
    ----------
    result : JobResult
        Records every step; see `dask_als.jobs.result.recorded`.
    watcher : Watcher, optional

    Raises
    ------
    InputError, JobError
        The error of a step, after it was recorded.
    """
    watcher = watcher or Unwatched()
    for name in job.steps:
        _steps(job)[name].check()
    for name in job.steps:
        ended = _run_step(name, job, executor, watcher, result)
        result.add(ended)
        watcher.ended(ended)


def _run_step(
    name: str, job: Job, executor: Executor, watcher: Watcher, result: JobResult
) -> StepResult:
    step, start = _steps(job)[name], time.monotonic()
    path, replaced = storage.absolute(step.path), []
    try:
        inputs = step.inputs(job)
        reason = reason_to_run(step, inputs) or changed_file(step.files(job), executor)
        if reason is None:
            return StepResult(
                step=name,
                status="skipped",
                seconds=0.0,
                path=path,
                reason="nothing has changed",
                figures=step.figures(job),
            )
        replaced = [path] if storage.exists(step.marker) else []
        replaced += step.also_removed(job)
        watcher.started(name, reason, replaced)
        step.run(job, executor, watcher)
        step = _steps(job)[name]  # The replaced output may have had another layout.
        write_note(name, step, inputs)
    except BaseException as error:
        result.add(
            StepResult(
                step=name,
                status="failed",
                seconds=_since(start),
                path=path,
                reason=in_a_line(error),
            )
        )
        raise
    return StepResult(
        step=name,
        status="done",
        seconds=_since(start),
        path=path,
        reason=reason,
        replaced=replaced,
        figures=step.figures(job),
    )


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)


class _Paths(TypedDict):
    path: str
    marker: str
    note: str
    kind: Kind


def _in_directory(path: str, kind: Kind) -> _Paths:
    return {
        "path": path,
        "marker": storage.join(path, kind.manifest),
        "note": storage.join(path, STEP_NOTE_NAME),
        "kind": kind,
    }


def _recommendations_paths(path: str) -> _Paths:
    """Return the paths of recommendations.

    The note is beside the directory, because readers open the directory as one Parquet table.
    """
    layout = recommend.layout_of(path)
    paths = _in_directory(path, layout)
    if layout is RECOMMENDATIONS:
        paths["note"] = f"{path.rstrip('/')}.{STEP_NOTE_NAME}"
    return paths


def _steps(job: Job) -> dict[str, Step]:
    return {
        "prepare": Step(
            **_in_directory(job.dataset, DATASET),
            inputs=_prepare_inputs,
            run=_prepare if job.schedule is None else _update_dataset,
            files=lambda job: open_dataset(job.dataset).files(),
            figures=_prepare_figures,
        ),
        "train": Step(
            **_in_directory(job.model, MODEL),
            inputs=_train_inputs,
            run=_train if job.schedule is None else _update_model,
            files=lambda job: read_manifest(job.model).files(storage.absolute(job.model)),
            figures=_train_figures,
            also_removed=_useless_checkpoints,
        ),
        "evaluate": Step(
            path=job.evaluation,
            marker=job.evaluation,
            note=f"{job.evaluation.removesuffix('.json')}.step.json",
            kind=EVALUATION,
            inputs=_evaluate_inputs,
            run=_evaluate,
            files=lambda job: {},  # The note has the SHA-256 of the only file.
            figures=_evaluate_figures,
        ),
        "recommend": Step(
            **_recommendations_paths(job.recommendations),
            inputs=_recommend_inputs,
            run=_recommend,
            files=_recommended_files,
            figures=_recommend_figures,
        ),
    }


def _prepare_inputs(job: Job) -> dict[str, Any]:
    source = open_source(job.source.path, job.source.columns)
    files = {*source.files, *([source.titles[0]] if source.titles else [])}
    if job.source.titles is not None:
        files.add(job.source.titles)
    files |= set(job.source.attributes.values())
    if job.source.test is not None:
        files |= set(open_source(job.source.test).files)
    states = {storage.absolute(file): storage.state_of_file(file) for file in sorted(files)}
    return {"files": states, "source": _inputs_of(job.source), **_inputs_of(job.prepare)}


def _inputs_of(settings: Any) -> dict[str, Any]:
    """Return settings as plain values; later ones only if they are set."""
    default = {field.name: field.default for field in fields(settings)}
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in _LATER_SETTINGS or value != default[name]
    }


def _update_dataset(job: Job, executor: Executor, watcher: Watcher) -> None:
    """Append what is new in the source, or prepare the whole source."""
    step = _steps(job)["prepare"]
    inputs = step.inputs(job)
    noted = noted_inputs(step)
    if noted is None:
        _prepare(job, executor, watcher)
        return
    titles = {file for file in inputs["files"] if file not in _rating_files(job)}
    # Files of a test source belong to no file of ratings, so they cannot be appended one by one.
    has_test = job.source.test is not None
    files = "it has a test source" if has_test else updates.new_files(noted, inputs, titles)
    source = updates.AppendedSource(
        job.dataset, job.source.columns, _titles_of(job.source), job.source.attributes
    )

    def note(done: dict[str, Any]) -> None:
        # After a kill, the next run goes on with the files that are not appended yet.
        write_note("prepare", step, {**inputs, "files": done})

    if isinstance(files, str):
        _LOG.warning("the whole source %s is prepared anew: %s", job.source.path, files)
    elif updates.append_files(source, files, executor, watcher.preparing, note):
        return
    else:
        _LOG.warning("the whole source %s is prepared anew", job.source.path)
    _prepare(job, executor, watcher)


def _rating_files(job: Job) -> set[str]:
    source = open_source(job.source.path, job.source.columns)
    return {storage.absolute(file) for file in source.files}


def _prepare(job: Job, executor: Executor, watcher: Watcher) -> None:
    source = job.source
    with watcher.preparing() as progress:
        prepare(
            source.path,
            job.dataset,
            executor,
            columns=source.columns,
            settings=job.prepare,
            titles=_titles_of(source),
            test=source.test,
            attributes=source.attributes,
            overwrite=True,
            progress=progress,
        )


def _titles_of(source: SourceSettings) -> Titles | None:
    if source.titles is None:
        return None
    return Titles(source.titles, source.title_column, source.title_id_column)


def _prepare_figures(job: Job) -> dict[str, Any]:
    dataset = open_dataset(job.dataset)
    counts = {name: value for name, value in dataset.source.items() if isinstance(value, int)}
    return {"users": dataset.users.n_rows, "items": dataset.items.n_rows, **counts}


def _train_inputs(job: Job) -> dict[str, Any]:
    return {"dataset": open_dataset(job.dataset).fingerprint, **job.train.to_json()}


def _kept_models(job: Job) -> KeptModels:
    return KeptModels(job.output, job.model)


def _training(job: Job) -> updates.Training:
    """Return how the step train trains: from scratch, or from the newest model of a schedule."""
    if job.schedule is None:
        return updates.Training(job.train, None)
    return updates.training_of(job, _kept_models(job))


def _update_model(job: Job, executor: Executor, watcher: Watcher) -> None:
    """Train the next model of a schedule, serve it, and remove the oldest ones."""
    assert job.schedule is not None, "a job with a schedule"
    kept, dataset = _kept_models(job), open_dataset(job.dataset)
    kept.adopt_served()
    path = kept.newest()
    # A run that was killed before it served its model has left it complete.
    is_trained = path is not None and _is_of(path, dataset) and not kept.serves(path)
    if path is None or not is_trained:
        path = kept.add(
            dataset.fingerprint,
            _training(job).settings,
            lambda path: _train_to(path, job, executor, watcher),
        )
    kept.serve(path, dataset)
    kept.prune(job.schedule.keep)


def _is_of(model: str, dataset: Dataset) -> bool:
    return read_manifest(model).dataset["fingerprint"] == dataset.fingerprint


def _useless_checkpoints(job: Job) -> list[str]:
    """Return the directory of the checkpoints if training cannot resume from them."""
    try:
        for newest in complete_checkpoints(job.checkpoints)[-1:]:
            check_continues(newest, open_dataset(job.dataset), _training(job).settings)
    except InputError:
        return [storage.absolute(job.checkpoints)]
    return []


def _train(job: Job, executor: Executor, watcher: Watcher) -> None:
    _train_to(job.model, job, executor, watcher)


def _train_to(path: str, job: Job, executor: Executor, watcher: Watcher) -> None:
    dataset, training = open_dataset(job.dataset), _training(job)
    if training.obstacle is not None:
        _LOG.warning("training starts from scratch: %s", training.obstacle)
    if _useless_checkpoints(job):
        clear_checkpoints(job.checkpoints, overwrite=True)
    with watcher.training(training.settings.epochs) as listener:
        train(
            dataset,
            path,
            training.settings,
            executor,
            initial_model=training.initial_model,
            checkpoints=CheckpointSettings(
                directory=job.checkpoints, resume=True, **asdict(job.checkpoint)
            ),
            # Nothing is at the path of the next kept model, or what is there is somebody else's.
            overwrite=job.schedule is None,
            listener=listener,
        )


def _train_figures(job: Job) -> dict[str, Any]:
    return read_manifest(job.model).figures.to_json()


def _evaluate_inputs(job: Job) -> dict[str, Any]:
    dataset = open_dataset(job.dataset)
    if not dataset.n_test:
        raise InputError(
            f"{dataset.path} has no held-out ratings; set prepare.test_fraction, such as 0.1"
        )
    return {**_trained(job, dataset), **asdict(job.evaluate)}


def _trained(job: Job, dataset: Dataset) -> dict[str, str]:
    """Return the values that identify a model and its dataset."""
    return {
        "dataset": dataset.fingerprint,
        "model": checksums.sha256(storage.join(job.model, model_manifest.MANIFEST)),
    }


def _evaluate(job: Job, executor: Executor, watcher: Watcher) -> None:
    dataset = open_dataset(job.dataset)
    with watcher.counting("partitions") as progress:
        found = evaluate(job.model, dataset, executor, job.evaluate, progress=progress)
    outputs.replace_json(job.evaluation, EVALUATION, found.to_json())


def _evaluate_figures(job: Job) -> dict[str, Any]:
    """Return the most important figures; the file has the others."""
    content = json_files.without_marks(json_files.read_json(job.evaluation))
    found = from_manifest(Evaluation, content, job.evaluation)
    rmse = {name: errors.rmse for name, errors in found.errors.items()}
    ndcg = {name: ranking.ndcg for name, ranking in found.ranking.items()}
    return {"ratings": found.n_test, "rmse": rmse, "ndcg": ndcg}


def _recommend_inputs(job: Job) -> dict[str, Any]:
    dataset = open_dataset(job.dataset)
    # Titles are part of the output, but not of the fingerprint.
    titles = checksums.sha256(rows_path(dataset.path, ITEMS))
    return {**_trained(job, dataset), "titles": titles, **asdict(job.recommend)}


def _recommend(job: Job, executor: Executor, watcher: Watcher) -> None:
    with watcher.counting("tasks") as progress:
        recommend.recommend(
            job.model,
            open_dataset(job.dataset),
            job.recommendations,
            executor,
            job.recommend,
            overwrite=True,
            progress=progress,
        )


def _recommended_files(job: Job) -> dict[str, int]:
    return recommend.read_manifest(job.recommendations).files(storage.absolute(job.recommendations))


def _recommend_figures(job: Job) -> dict[str, Any]:
    made = recommend.read_manifest(job.recommendations)
    return {"rows": made.rows, "recommendations": made.recommendations}
