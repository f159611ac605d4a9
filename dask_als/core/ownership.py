"""Which files are ours: we replace and remove only what we can prove that we made.

A directory of ours has a manifest with a checksum that names this project, the kind of output and
all files. A single file of ours has a marker that its format allows. Release 0.1 wrote neither; its
outputs are recognized by the checksum, the manifest's keys and the names of the files. Nothing that
is not listed counts as ours, and no link is followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import json_files, parquet_manifest, storage
from dask_als.errors import InputError

PROJECT = "dask_als"
STEP_NOTE_NAME = "step.json"
MOVING = ".moving"
"""On object stores, this file lists an output's files while they are moved one by one."""

_MOST_BYTES = 1 << 24
_HEAD_BYTES = 1 << 14
_PART = r"part-[0-9]{5,}\.(parquet|arrow)"


@dataclass(frozen=True)
class Kind:
    """A kind of output that is a directory.

    Attributes
    ----------
    name : str
    manifest : str
        The file that completes it: JSON, or Parquet without rows (`parquet_manifest`).
    keys : frozenset of str
        Keys by which a manifest of release 0.1, which does not name its kind, is recognized.
    files : str
        A regular expression: the files of an output whose manifest does not list them.
    before : Kind or None
        The same kind of output as earlier releases wrote it.
    """

    name: str
    manifest: str
    keys: frozenset[str]
    files: str
    before: Kind | None = None


@dataclass(frozen=True)
class FileKind:
    """A kind of output that is a single file.

    Attributes
    ----------
    name : str
    format : {"json", "jsonl", "html", "toml"}
        It decides where the marker is.
    is_old : callable
        Tells by the first bytes of a file without a marker whether release 0.1 wrote it.
    """

    name: str
    format: Literal["json", "jsonl", "html", "toml"]
    is_old: Callable[[bytes], bool] = lambda head: False

    @property
    def mark(self) -> str:
        """The marker as text."""
        return f"{PROJECT}: {self.name}"


def _has_keys(*keys: str) -> Callable[[bytes], bool]:
    return lambda head: set(keys) <= _object_of(head.splitlines()[0] if head else b"").keys()


def _has_keys_in_all(*keys: str) -> Callable[[bytes], bool]:
    return lambda content: set(keys) <= _object_of(content).keys()


def _object_of(text: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


_DATASET_FILES = rf"(users|items|rejected)\.parquet|(by_user|by_item|test)/{_PART}|manifest\.json"
_MODEL_FILES = (
    rf"(users|items|predictions)/{_PART}|new_(users|items)\.parquet|history\.jsonl|fold_in\.json"
    rf"|ratings/({_DATASET_FILES})"
)
_MODEL_KEYS = frozenset({"settings", "global_mean", "dataset", "users", "items", "figures"})

DATASET = Kind(
    "dataset", "manifest.json", frozenset({"users", "items", "fingerprint"}), _DATASET_FILES
)
MODEL = Kind("model", "model.json", _MODEL_KEYS, _MODEL_FILES)
FOLDED_MODEL = Kind("fold-in model", "model.json", _MODEL_KEYS, _MODEL_FILES)
CHECKPOINT = Kind("checkpoint", "model.json", _MODEL_KEYS, _MODEL_FILES)
BEST_MODEL = Kind("best model", "model.json", _MODEL_KEYS, _MODEL_FILES)
SAMPLE = Kind(
    "sample",
    "sample.json",
    frozenset({"users", "items", "residual_precision"}),
    rf"(users|items)/{_PART}",
)
REDUCTION = Kind(
    "reduction of samples",
    "reduction.json",
    frozenset({"users", "items", "residual_precisions", "distance"}),
    rf"(users|items)/{_PART}|(users|items)-moments\.arrow",
)
_RECOMMENDATIONS_KEYS = frozenset({"model", "settings", "rows", "recommendations"})
OLD_RECOMMENDATIONS = Kind("recommendations", "recommendations.json", _RECOMMENDATIONS_KEYS, _PART)
RECOMMENDATIONS = Kind(
    "recommendations",
    "_recommendations.parquet",
    _RECOMMENDATIONS_KEYS,
    _PART,
    before=OLD_RECOMMENDATIONS,
)
VECTOR_INDEX = Kind("vector index", "index.json", frozenset({"recall"}), r"$^")

JOB_RESULT = FileKind(
    "job result", "json", _has_keys_in_all("run_id", "job", "path", "status", "steps", "dask_als")
)
EVALUATION = FileKind(
    "evaluation", "json", _has_keys_in_all("settings", "n_test", "n_lists", "errors", "ranking")
)
STEP_NOTE = FileKind("step note", "json", _has_keys_in_all("step", "inputs", "sha256"))
KEPT_MODELS = FileKind("record of kept models", "json")
IN_USE = FileKind("note of a run", "json", _has_keys_in_all("run_id", "host", "since"))
TRACE = FileKind("trace", "jsonl", _has_keys("epoch", "side", "solving", "overhead", "partitions"))
REPORT = FileKind("report", "html", lambda head: " · dask-als</title>".encode() in head)
PERFORMANCE_REPORT = FileKind("performance report", "html")
TUNED_JOB = FileKind(
    "tuned job",
    "toml",
    lambda head: (
        re.match(rb"# \w+ [\d.]+ by cross-validation, [\d.]+ with the default", head) is not None
    ),
)


def marked_json(kind: FileKind, value: dict[str, Any]) -> str:
    """Return a JSON file of ours as text."""
    return json_files.as_json({"made_by": PROJECT, "kind": kind.name, **value})


def marked_text(kind: FileKind, text: str) -> str:
    """Return a text file of ours: HTML, TOML, or JSON lines, whose first line is the marker."""
    if kind.format == "html":
        meta = f'<meta name="generator" content="{kind.mark}">\n'
        head = re.search(r"<head[^>]*>\s*?\n?", text)
        place = head.end() if head else 0
        return text[:place] + meta + text[place:]
    if kind.format == "toml":
        return f"# made by {kind.mark}\n{text}"
    return f"{json.dumps({'made_by': PROJECT, 'kind': kind.name})}\n{text}"


def check_file(path: str, kind: FileKind | None) -> None:
    """Check that a file may be written at `path`: nothing is there, or a file of ours of that kind.

    Parameters
    ----------
    kind : FileKind or None
        None for a file that never replaces another.

    Raises
    ------
    InputError
        If something else is there.
    """
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        try:
            mode = os.lstat(inner).st_mode
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path} cannot be written: {reason}") from None
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is {_called(mode)}, so it is not replaced; choose another")
    elif not filesystem.exists(inner):
        return
    if kind is None:
        raise InputError(f"{path} exists already; choose another name")
    if not _is_file_of(filesystem, inner, kind):
        raise InputError(
            f"{path} exists and is not a dask-als {kind.name}, so it is not replaced; "
            "choose another name"
        )


def _called(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a directory" if stat.S_ISDIR(mode) else "not a regular file"


def _is_file_of(filesystem: Any, inner: str, kind: FileKind) -> bool:
    with suppress(OSError):
        if filesystem.size(inner) > _MOST_BYTES and kind.format == "json":
            return False
        with filesystem.open(inner, "rb") as file:
            content = file.read(_MOST_BYTES if kind.format == "json" else _HEAD_BYTES)
        return is_content_of(content, kind)
    return False


def is_content_of(content: bytes, kind: FileKind) -> bool:
    """Tell by the first bytes of a file whether it is one of ours, of a kind."""
    match kind.format:
        case "json":
            marker = _object_of(content)
        case "jsonl":
            marker = _object_of(content.partition(b"\n")[0])
        case "toml":
            marked = content.startswith(f"# made by {kind.mark}\n".encode())
            return marked or kind.is_old(content)
        case "html":
            return f' content="{kind.mark}">'.encode() in content or kind.is_old(content)
    if "made_by" in marker:
        return marker["made_by"] == PROJECT and marker.get("kind") == kind.name
    return kind.is_old(content)


def files_of(path: str, kind: Kind) -> list[str]:
    """Return the files of a directory that we made, relative to it, the manifest last.

    Raises
    ------
    InputError
        If the directory, or anything in it, is not ours.
    """
    listed = listed_files(path, kind)
    check_nothing_else(path, listed)
    return listed


def check_nothing_else(path: str, listed: list[str]) -> None:
    """Check that a directory holds nothing but listed files.

    Raises
    ------
    InputError
        If it holds anything else.
    """
    strange = next(_strangers(path, set(listed)), None)
    if strange is not None:
        raise InputError(
            f"{path} holds {strange}, which dask-als did not make, so it is not replaced; "
            "move that away or choose another output"
        )


def listed_files(path: str, kind: Kind) -> list[str]:
    """Return the files that belong to a directory of ours and ignore all others; see `files_of`.

    Raises
    ------
    InputError
        If it is not one of ours of that kind.
    """
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem) and os.path.islink(inner.rstrip("/")):
        raise InputError(f"{path} is a symbolic link, so it is not replaced; name its target")
    found = dict(_inventory(path))
    if found.get(MOVING) == "file":
        moving = _object_of(filesystem.cat_file(storage.join(inner, MOVING)))
        if moving.get("made_by") == PROJECT and moving.get("kind") == kind.name:
            return [*_plain(moving.get("files")), MOVING]
    manifest = _manifest_of(path, kind) if found.get(kind.manifest) == "file" else None
    if manifest is None and kind.before is not None and kind.before.manifest in found:
        return listed_files(path, kind.before)
    if manifest is None:
        raise InputError(
            f"{path} holds something else (no {kind.manifest} of a {kind.name} that dask-als "
            "made), so it is not overwritten; choose another output"
        )
    if "files" in manifest:
        files = _plain(manifest["files"])
    else:
        files = [name for name in found if re.fullmatch(kind.files, name)]
    note = storage.join(path, STEP_NOTE_NAME)
    if found.get(STEP_NOTE_NAME) == "file" and _is_file_of(*storage.file_system(note), STEP_NOTE):
        files = [*files, STEP_NOTE_NAME]
    return [*(name for name in files if name != kind.manifest), kind.manifest]


def _plain(names: Any) -> list[str]:
    """Return the names that lead to files below a directory, not out of it."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return [
        name
        for name in (names if is_list else [])
        if not {"", ".", ".."} & set(name.split("/")) and "\0" not in name
    ]


def _manifest_of(path: str, kind: Kind) -> dict[str, Any] | None:
    """Return the manifest of a directory of ours; None if it is not of that kind."""
    try:
        value = _read_manifest(storage.join(path, kind.manifest))
    except InputError:
        return None
    if not isinstance(value, dict) or not json_files.has_its_checksum(value):
        return None
    if "made_by" in value:
        ours = value["made_by"] == PROJECT and value.get("kind") == kind.name
        return value if ours else None
    return value if kind.keys <= value.keys() else None


def _strangers(path: str, listed: set[str]) -> Iterator[str]:
    """Yield all names in a directory that are neither listed nor parents of listed files."""
    parents = {parent for name in listed for parent in _parents(name)}
    for name, what in sorted(_inventory(path)):
        if not (name in listed if what == "file" else what == "directory" and name in parents):
            yield name


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _inventory(path: str) -> Iterator[tuple[str, Literal["file", "directory", "other"]]]:
    """Yield name and type of everything below a directory; links are not followed."""
    filesystem, inner = storage.file_system(path)
    inner = inner.rstrip("/")
    if not isinstance(filesystem, LocalFileSystem):
        for name in filesystem.find(inner):
            yield str(name)[len(inner) :].lstrip("/"), "file"
        return
    waiting = [""]
    while waiting:
        above = waiting.pop()
        try:
            entries = list(os.scandir(os.path.join(inner, above)))
        except NotADirectoryError:
            raise InputError(f"{path} holds something else (it is a file)") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {storage.first_line(error)}") from None
        for entry in entries:
            name = f"{above}/{entry.name}" if above else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
                yield name, "directory"
            else:
                yield name, "file" if entry.is_file(follow_symlinks=False) else "other"


def seal(path: str, kind: Kind) -> None:
    """Add the marker and the list of files to the manifest of a directory that was just made.

    Raises
    ------
    InputError
        If there is no manifest.
    """
    manifest = storage.join(path, kind.manifest)
    value = _read_manifest(manifest)
    files = sorted(name for name, what in _inventory(path) if what == "file")
    unmarked = ("checksum", *json_files.MARK_KEYS)
    content = {key: entry for key, entry in value.items() if key not in unmarked}
    marked = {**content, "made_by": PROJECT, "kind": kind.name, "files": files}
    if manifest.endswith(".parquet"):
        parquet_manifest.rewrite_value(manifest, marked)
    else:
        json_files.write_with_checksum(manifest, marked)


def _read_manifest(path: str) -> Any:
    return (parquet_manifest.read_value if path.endswith(".parquet") else json_files.read_json)(
        path
    )


def check_inputs(path: str, inputs: Iterable[str]) -> None:
    """Check that no input is, or lies inside, the output that would be replaced.

    Raises
    ------
    InputError
        If one does.
    """
    replaced = _real(path)
    for each in inputs:
        real = _real(each)
        if real == replaced or real.startswith(f"{replaced}/"):
            where = "is an input" if real == replaced else f"holds the input {each}"
            raise InputError(f"{path} {where}, so it is not replaced; choose another output")


def _real(path: str) -> str:
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        return os.path.realpath(inner)
    return str(filesystem.unstrip_protocol(inner)).rstrip("/")


def staging_name(name: str, random: str) -> str:
    """Return the name of a staging directory, beside an output that is being written.

    It ends in a digest of the rest, so that no directory of somebody else is mistaken for it.
    """
    proof = hashlib.sha256(f"{PROJECT} {name} {random}".encode()).hexdigest()[:8]
    return f".{name}.{random}{proof}{storage.STAGING_SUFFIX}"


def new_staging_name(name: str) -> str:
    """Return a staging name that no other run has; see `staging_name`."""
    return staging_name(name, uuid.uuid4().hex[:8])


def name_staged_in(entry: str) -> str | None:
    """Return the output's name if an entry is a name of `staging_name`, else None."""
    match = re.fullmatch(
        rf"\.(.+)\.([0-9a-f]{{8}})[0-9a-f]{{8}}{re.escape(storage.STAGING_SUFFIX)}",
        entry,
        re.DOTALL,
    )
    return match[1] if match and staging_name(match[1], match[2]) == entry else None
