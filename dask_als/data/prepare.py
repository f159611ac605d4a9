"""Make a dataset of a source of ratings, or append ratings to one.

The stages are in `dask_als.data.prepare_plan`, their tasks in `dask_als.data.prepare_tasks`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dask_als.core import checksums, storage
from dask_als.core.exclusive import exclusive
from dask_als.core.executor import Executor
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import DATASET
from dask_als.core.side import ITEMS, SIDES, Side
from dask_als.data.attribute_source import AttributeFile, checked_file
from dask_als.data.dataset import MANIFEST, Appended, Dataset, Growth, open_dataset
from dask_als.data.kept_rows import stored_chunks
from dask_als.data.prepare_inputs import (
    KnownRows,
    Ratings,
    Titles,
    columns_to_read,
    find_titles,
    titles_json,
)
from dask_als.data.prepare_plan import Plan
from dask_als.data.progress import Progress
from dask_als.data.source import Source, open_source
from dask_als.data.source_files import is_stream, listed
from dask_als.data.standard_input import as_file
from dask_als.data.titles import TitleFile
from dask_als.errors import InputError, JobError
from dask_als.settings.data import Columns, PrepareSettings

__all__ = ["KnownRows", "Progress", "Titles", "append", "prepare"]

_LOG = logging.getLogger(__name__)
NO_ATTRIBUTES: Mapping[Side, str] = MappingProxyType({})
_ATTRIBUTE_PATHS = {side: f"{side.singular}_attributes" for side in SIDES}


def prepare(
    source_path: str,
    path: str,
    executor: Executor,
    *,
    columns: Columns = Columns(),
    settings: PrepareSettings = PrepareSettings(),
    titles: Titles | None = None,
    test: str | None = None,
    known: KnownRows | None = None,
    attributes: Mapping[Side, str] = NO_ATTRIBUTES,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Dataset:
    """Make a dataset from a source of ratings.

    Parameters
    ----------
    source_path : str
        Delimited text, JSON lines or Parquet: a file, a folder or a glob; text may be compressed.
        ``-`` is standard input.
    path : str
        The dataset to make.
    executor : Executor
    columns : Columns, optional
        The names of the source's columns; by default those of GroupLens.
    settings : PrepareSettings, optional
    titles : Titles, optional
        By default the titles of GroupLens' layout, if the source has it.
    test : str, optional
        A source of ratings to hold out, with the same columns. A pair of user and item that both
        sources have is held out.
    known : KnownRows, optional
        The rows of one side in their order; by default the ids of the source, sorted.
    attributes : mapping of Side to str, optional
        Files with attributes of users and of items, by id.
    overwrite : bool, optional
        Whether to replace an existing dataset.
    progress : callable, optional

    Raises
    ------
    InputError
        If the source cannot be used, or `path` exists.
    JobError
        If the written ratings differ from those read.
    """
    settings = _with_test(settings, test)
    with ExitStack() as stack:
        source = _opened(source_path, path, columns, stack)
        test_source = None if test is None else _opened(test, path, columns, stack)
        columns = _columns_of(source, test_source, columns, settings)
        title_file = None
        if known is None or known.side is not ITEMS:
            title_file = find_titles(source, columns, titles)
        described: dict[str, Any] = {
            "path": _recorded_path(source.path),
            "columns": columns.to_json(),
            "titles": titles and titles_json(titles),
            **_described_attributes(attributes),
        }
        if test_source is not None:
            described["test_path"] = _recorded_path(test_source.path)
        if source.findings:
            described["found"] = source.findings
        ratings = Ratings(
            source.path,
            columns,
            source.chunks,
            described,
            title_file,
            () if test_source is None else test_source.chunks,
            test,
            attributes=_attribute_files(attributes, columns),
        )
        read = [*_files_of(source, test_source, title_file), *attributes.values()]
        staging = stack.enter_context(
            staged_directory(path, DATASET, overwrite=overwrite, inputs=read)
        )
        return Plan(executor, progress, settings, ratings, known, staging).run(path)


def _opened(path: str, output: str, columns: Columns, stack: ExitStack) -> Source:
    """Open a source; standard input is copied beside the output, until the stack is closed."""
    readable = stack.enter_context(as_file(path, output))
    source = replace(open_source(readable, columns), path=path)
    if source.findings:
        _LOG.info("found in %s: %s", path, source.findings)
    return source


def _recorded_path(path: str) -> str:
    return path if is_stream(path) else storage.absolute(path)


def append(
    source_path: str,
    path: str,
    executor: Executor,
    *,
    columns: Columns | None = None,
    settings: PrepareSettings | None = None,
    titles: Titles | None = None,
    test: str | None = None,
    attributes: Mapping[Side, str] = NO_ATTRIBUTES,
    progress: Progress = lambda stage, done, total: None,
) -> Dataset:
    """Append ratings to a dataset, which is replaced in one step by the larger one.

    The larger dataset has the bits that preparing all ratings at once gives, the new ones after
    those that are there.

    Parameters
    ----------
    source_path : str
        A source of ratings, as `prepare` reads it.
    path : str
        The dataset.
    executor : Executor
    columns : Columns, optional
        The names of the source's columns; by default those that the dataset was prepared with.
    settings : PrepareSettings, optional
        By default those of the dataset; only `partitions` may differ.
    titles : Titles, optional
        Titles of items; an item that has none there keeps the title that it has.
    test : str, optional
        A source of ratings to hold out, for a dataset that has a test source.
    attributes : mapping of Side to str, optional
        Files with attributes of users and of items; an id that has none there keeps those that it
        has.
    progress : callable, optional

    Raises
    ------
    InputError
        If the source cannot be used, or the dataset cannot be appended to. It stays as it is.
    JobError
        If the written ratings differ from those read.
    """
    manifest_file = storage.join(open_dataset(path).path, MANIFEST)
    with ExitStack() as stack:
        stack.enter_context(exclusive(manifest_file, "appended to"))
        # Not earlier: another run may have replaced it meanwhile.
        before = open_dataset(path)
        manifest = checksums.sha256(manifest_file)
        settings = _settings_of_appended(before, settings)
        columns = columns_of(before) if columns is None else columns
        if is_appended(source_path, before):
            raise InputError(
                f"{source_path} was appended to {path} already and has not changed since; "
                "append only what is new"
            )
        source = _opened(source_path, path, columns, stack)
        test_source = None
        if test is not None:
            _check_own_split(before, settings, test)
            test_source = _opened(test, path, columns, stack)
        columns = _columns_of_appended(before, source, test_source, columns)
        title_file = find_titles(source, columns, titles)
        ratings = _with_stored(before, source, test_source, columns, title_file, titles)
        ratings = replace(
            ratings,
            attributes=_attribute_files(attributes, columns),
            described={**ratings.described, **_described_attributes(attributes)},
        )
        read = [*_files_of(source, test_source, title_file), *attributes.values()]
        staging = stack.enter_context(staged_directory(path, DATASET, overwrite=True, inputs=read))
        dataset = Plan(executor, progress, settings, ratings, None, staging).run(path)
        if checksums.sha256(manifest_file) != manifest:
            raise JobError(
                f"{path} was changed by another run meanwhile, so nothing was appended; "
                "run this again"
            )
    return dataset


def _with_stored(
    before: Dataset,
    source: Source,
    test: Source | None,
    columns: Columns,
    title_file: TitleFile | None,
    titles: Titles | None,
) -> Ratings:
    """Return the ratings that a dataset was made of, and after them those of sources."""
    stored, stored_test = stored_chunks(before)
    described: dict[str, Any] = {
        name: before.source[name]
        for name in ("path", "columns", "titles", "test_path", "found", *_ATTRIBUTE_PATHS.values())
        if name in before.source
    }
    if titles is not None:
        described["titles"] = titles_json(titles)
    return Ratings(
        source.path,
        columns,
        (*stored, *source.chunks),
        described,
        title_file,
        (*stored_test, *(() if test is None else test.chunks)),
        None if test is None else test.path,
        (len(stored), len(stored_test)),
        before,
        Appended(
            _recorded_path(source.path), states_of(source), before.fingerprint, source.findings
        ),
    )


def _attribute_files(attributes: Mapping[Side, str], columns: Columns) -> dict[Side, AttributeFile]:
    return {side: checked_file(path, side, columns) for side, path in attributes.items()}


def _described_attributes(attributes: Mapping[Side, str]) -> dict[str, str]:
    """Return where attributes come from, as the manifest records it."""
    return {_ATTRIBUTE_PATHS[side]: storage.absolute(path) for side, path in attributes.items()}


def _check_own_split(before: Dataset, settings: PrepareSettings, test: str) -> None:
    """Check that a test source can be appended: that the dataset has one of its own."""
    if settings.split != "own":
        raise InputError(
            f"--test is {test}, but {before.path} was prepared without --test; leave it out"
        )


def growth_of(dataset: Dataset) -> Growth:
    """Return what a dataset records for appending.

    Raises
    ------
    InputError
        If it does not.
    """
    if dataset.growth is None:
        raise InputError(
            f"{dataset.path} cannot be appended to: it was made by an earlier release or by "
            "fold-in, without the times and repeated ratings that this takes; "
            "prepare all ratings anew in one go"
        )
    return dataset.growth


def is_appended(source_path: str, dataset: Dataset) -> bool:
    """Tell whether a source was appended to a dataset, and its files have not changed since."""
    if is_stream(source_path):
        return False
    states = states_of(open_source(source_path, columns_of(dataset)))
    return any(its.files == states for its in growth_of(dataset).appended)


def columns_of(dataset: Dataset) -> Columns:
    """Return the names of the columns of the source that a dataset was prepared from."""
    recorded: dict[str, Any] = dataset.source["columns"]
    return Columns(**{"rating": None, **recorded})


def states_of(source: Source) -> dict[str, Any]:
    """Return what changes once a file of a source is changed, for each file."""
    inside = "" if source.member is None else f"!{source.member}"
    return {
        storage.absolute(file) + inside: storage.state_of_file(file)
        for file in sorted(source.files)
    }


def _files_of(source: Source, test: Source | None, titles: TitleFile | None) -> list[str]:
    return [
        *source.files,
        *([] if test is None else test.files),
        *([titles.path] if titles else []),
    ]


def _with_test(settings: PrepareSettings, test: str | None) -> PrepareSettings:
    """Return settings for a test source, if there is one."""
    if test is None:
        if settings.split == "own":
            raise InputError("the split 'own' needs a test source; give --test")
        return settings
    if settings.holds_out and settings.split != "own":
        raise InputError(
            f"--test is {test}, so nothing else is held out; leave out --test-fraction and --split"
        )
    return replace(settings, split="own")


def _columns_of(
    source: Source, test: Source | None, columns: Columns, settings: PrepareSettings
) -> Columns:
    """Return the columns to read; the time only if something depends on it."""
    if columns.time is None and test is not None and not _has_default_time(test):
        found = replace(columns_to_read(source, columns), time=None)
    else:
        found = columns_to_read(source, columns)
    if not settings.needs_times:
        found = replace(found, time=None)
    if settings.half_life is not None and found.time is None:
        raise InputError(
            f"half-life is {settings.half_life:g} days and needs a time column; {source.path} has "
            f"{listed(source.columns)}; name yours with --time-col"
        )
    by_time = settings.split in ("latest", "time") and settings.holds_out
    if by_time and found.time is None:
        raise InputError(
            f"the split {settings.split!r} needs a time column; {source.path} has "
            f"{listed(source.columns)}; name yours with --time-col"
        )
    if test is not None:
        _check_columns(test, found)
    return found


def _has_default_time(source: Source) -> bool:
    return Columns().within(source.columns).time is not None


def _check_columns(source: Source, columns: Columns) -> None:
    """Check that a second source has the columns of the first."""
    columns_to_read(source, columns)


def _columns_of_appended(
    before: Dataset, source: Source, test: Source | None, columns: Columns
) -> Columns:
    """Return the columns to read of a source that is appended."""
    growth = growth_of(before)
    if growth.times and columns.time is None:
        columns = replace(columns, time=columns_of(before).time)
    weight = columns_of(before).weight
    if weight is None and columns.weight is not None:
        raise InputError(
            f"--weight-col is {columns.weight}, but {before.path} was prepared without weights; "
            "leave it out, or prepare all ratings anew"
        )
    if columns.weight is None:
        columns = replace(columns, weight=weight)
    found = columns_to_read(source, columns)
    if not growth.times:
        found = replace(found, time=None)
    if test is not None:
        _check_columns(test, found)
    return found


def _settings_of_appended(before: Dataset, settings: PrepareSettings | None) -> PrepareSettings:
    """Return the settings of a dataset, with the partitions that are asked for."""
    its = growth_of(before).settings
    if settings is None:
        return its
    wanted = replace(its, partitions=settings.partitions)
    if wanted != settings:
        name, value, kept = next(
            (name, value, getattr(wanted, name))
            for name, value in vars(settings).items()
            if value != getattr(wanted, name)
        )
        option = name.replace("_", "-")
        raise InputError(
            f"{option} is {value!r}, but {before.path} was prepared with {kept!r}; leave it out, "
            "or prepare all ratings anew"
        )
    return settings
