"""Run the steps of a job; skip a step whose output is up to date.

Each step writes a note beside its output with its inputs and settings. The next run skips the step
if inputs and settings are the same and the output is unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, TypedDict

from dask_als.core import checksums, json_files, outputs, storage
from dask_als.core.executor import Executor
from dask_als.core.ownership import (
    DATASET,
    EVALUATION,
    MODEL,
    RECOMMENDATIONS,
    STEP_NOTE,
    STEP_NOTE_NAME,
    FileKind,
    Kind,
)
from dask_als.core.run_events import Listener
from dask_als.core.side import ITEMS
from dask_als.core.typed_tables import from_manifest
from dask_als.data.dataset import Dataset, open_dataset, rows_path
from dask_als.data.prepare import Progress, Titles, prepare
from dask_als.data.source import open_source
from dask_als.errors import InputError
from dask_als.evaluation.evaluate import evaluate
from dask_als.evaluation.results import Evaluation
from dask_als.jobs.job_file import Job, SourceSettings
from dask_als.jobs.result import JobResult, StepResult, in_a_line
from dask_als.model import files as model_files
from dask_als.model import recommend
from dask_als.model.files import read_manifest
from dask_als.settings.training import CheckpointSettings
from dask_als.training.checkpoints import check_continues, clear_checkpoints, complete_checkpoints
from dask_als.training.train import train

_FILES_OF_A_TASK = 16
# They are in a note only if they are set.
_LATER_SETTINGS = ("test", "test_from", "least_user_ratings", "least_item_ratings")


class Watcher(Protocol):
    """Receives the progress of a job."""

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        """Handle the start of a step, with its reason and the paths that it will replace."""
        ...

    def ended(self, step: StepResult) -> None:
        """Handle the end of a step."""
        ...

    def preparing(self) -> AbstractContextManager[Progress]:
        """Return the callback for the stages of `prepare`."""
        ...

    def training(self, n_epochs: int) -> AbstractContextManager[Listener]:
        """Return the listener for epochs and half-epochs."""
        ...

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Return the callback for the number of completed partitions or tasks, and the total."""
        ...


class Unwatched:
    """A watcher that ignores all events."""

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        """Ignore the event."""

    def ended(self, step: StepResult) -> None:
        """Ignore the event."""

    @contextmanager
    def preparing(self) -> Iterator[Progress]:
        """Ignore stages."""
        yield lambda stage, done, total: None

    @contextmanager
    def training(self, n_epochs: int) -> Iterator[Listener]:
        """Ignore epochs."""
        yield Listener()

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Ignore counts."""
        yield lambda done, total: None


@dataclass(frozen=True)
class _Step:
    """The inputs, the action and the output of a step.

    Attributes
    ----------
    path : str
        The output: a directory or a file.
    marker : str
        The file that exists only if the output is complete.
    note : str
        The file that records what the output was made from.
    kind : Kind or FileKind
    inputs : callable
        Job -> all values that determine the output, as plain JSON values.
    run : callable
        Makes the output.
    files : callable
        Job -> the paths of all files of the output, with their CRC-32.
    figures : callable
        Job -> figures of the output by name.
    also_removed : callable
        Job -> other paths that become useless and are removed.
    """

    path: str
    marker: str
    note: str
    kind: Kind | FileKind
    inputs: Callable[[Job], dict[str, Any]]
    run: Callable[[Job, Executor, Watcher], None]
    files: Callable[[Job], dict[str, int]]
    figures: Callable[[Job], dict[str, Any]]
    also_removed: Callable[[Job], list[str]] = lambda job: []

    def check(self) -> None:
        """Check before any step runs that the output may be written.

        Raises
        ------
        InputError
            If a file or folder of another program would be replaced.
        """
        if isinstance(self.kind, FileKind):
            outputs.check_file(self.path, self.kind)
        elif not storage.exists(self.marker):
            outputs.check_directory(self.path, self.kind, overwrite=True)
        if not self.note.startswith(f"{self.path}/"):
            outputs.check_file(self.note, STEP_NOTE)


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
        reason = _reason_to_run(step, inputs) or _changed_file(step.files(job), executor)
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
        made = {"step": name, "inputs": inputs, "sha256": checksums.sha256(step.marker)}
        outputs.replace_json(step.note, STEP_NOTE, made)
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


def _reason_to_run(step: _Step, inputs: dict[str, Any]) -> str | None:
    """Return what changed since the last run of the step; None if nothing did."""
    if not storage.exists(step.marker):
        return "no output yet"
    if not storage.exists(step.note):
        return "the output was not made by a job"
    try:
        note = json_files.read_json(step.note)
        before, digest = dict(note["inputs"]), note["sha256"]
    except (InputError, KeyError, TypeError, ValueError):
        return "the note with the inputs of the output is damaged"
    if digest != checksums.sha256(step.marker):
        return "the output was changed after the last run"
    changed = [name for name in {**before, **inputs} if before.get(name) != inputs.get(name)]
    return f"changed: {', '.join(changed)}" if changed else None


def _changed_file(files: dict[str, int], executor: Executor) -> str | None:
    """Return the first file that differs from its manifest; None if there is none.

    The workers read the files, as they may be closer to the storage than this process.
    """
    paths = list(files)
    handles = [
        executor.submit(_changed, some, [files[path] for path in some], key=f"check-files-{start}")
        for start in range(0, len(paths), _FILES_OF_A_TASK)
        for some in [paths[start : start + _FILES_OF_A_TASK]]
    ]
    changed = [path for found in executor.gather(handles) for path in found]
    return f"{changed[0]} was changed after the last run" if changed else None


def _changed(paths: list[str], expected: list[int]) -> list[str]:
    pairs = zip(paths, expected, strict=True)
    return [path for path, crc32 in pairs if checksums.has_changed(path, crc32)]


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


def _steps(job: Job) -> dict[str, _Step]:
    return {
        "prepare": _Step(
            **_in_directory(job.dataset, DATASET),
            inputs=_prepare_inputs,
            run=_prepare,
            files=lambda job: open_dataset(job.dataset).files(),
            figures=_prepare_figures,
        ),
        "train": _Step(
            **_in_directory(job.model, MODEL),
            inputs=_train_inputs,
            run=_train,
            files=lambda job: read_manifest(job.model).files(storage.absolute(job.model)),
            figures=_train_figures,
            also_removed=_useless_checkpoints,
        ),
        "evaluate": _Step(
            path=job.evaluation,
            marker=job.evaluation,
            note=f"{job.evaluation.removesuffix('.json')}.step.json",
            kind=EVALUATION,
            inputs=_evaluate_inputs,
            run=_evaluate,
            files=lambda job: {},  # The note has the SHA-256 of the only file.
            figures=_evaluate_figures,
        ),
        "recommend": _Step(
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


def _useless_checkpoints(job: Job) -> list[str]:
    """Return the directory of the checkpoints if training cannot resume from them."""
    try:
        for newest in complete_checkpoints(job.checkpoints)[-1:]:
            check_continues(newest, open_dataset(job.dataset), job.train)
    except InputError:
        return [storage.absolute(job.checkpoints)]
    return []


def _train(job: Job, executor: Executor, watcher: Watcher) -> None:
    dataset = open_dataset(job.dataset)
    if _useless_checkpoints(job):
        clear_checkpoints(job.checkpoints, overwrite=True)
    with watcher.training(job.train.epochs) as listener:
        train(
            dataset,
            job.model,
            job.train,
            executor,
            checkpoints=CheckpointSettings(
                directory=job.checkpoints, resume=True, **asdict(job.checkpoint)
            ),
            overwrite=True,
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
        "model": checksums.sha256(storage.join(job.model, model_files.MANIFEST)),
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
