"""A step of a job, and the note that tells whether its output is up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dask_als.core import checksums, json_files, outputs, storage
from dask_als.core.executor import Executor
from dask_als.core.ownership import STEP_NOTE, FileKind, Kind
from dask_als.errors import InputError
from dask_als.jobs.job_file import Job
from dask_als.jobs.watcher import Watcher

_FILES_OF_A_TASK = 16


@dataclass(frozen=True)
class Step:
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


def write_note(name: str, step: Step, inputs: dict[str, Any]) -> None:
    """Record that the output of a step was made from the given inputs."""
    made = {"step": name, "inputs": inputs, "sha256": checksums.sha256(step.marker)}
    outputs.replace_json(step.note, STEP_NOTE, made)


def reason_to_run(step: Step, inputs: dict[str, Any]) -> str | None:
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


def changed_file(files: dict[str, int], executor: Executor) -> str | None:
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


def noted_inputs(step: Step) -> dict[str, Any] | None:
    """Return the inputs that an unchanged output was made from; None if that is not known."""
    try:
        note = json_files.read_json(step.note)
        inputs, digest = dict(note["inputs"]), note["sha256"]
        return inputs if digest == checksums.sha256(step.marker) else None
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
