import contextlib
import errno
import os
import re
import subprocess
import sys

import fsspec
import pytest

from dask_als.core import json_files, local_files, outputs, ownership, staging, storage
from dask_als.core.ownership import DATASET
from dask_als.errors import InputError, JobError

MANIFEST = DATASET.manifest


@pytest.fixture
def memory():
    """A file system that cannot rename directories."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    return "memory://somewhere/deep"


def make(path, content, *, overwrite=False, kind=DATASET):
    """Make a complete directory."""
    with outputs.staged_directory(path, kind, overwrite=overwrite) as staging:
        json_files.write_json(storage.join(staging, "part", "content.json"), content)
        json_files.write_manifest(storage.join(staging, kind.manifest), {}, format_version=1)


def content_of(path):
    return json_files.read_json(storage.join(path, "part", "content.json"))


def everything_in(directory):
    return sorted(os.path.relpath(p, directory) for p, _, _ in os.walk(directory))[1:]


def test_a_directory_is_complete_or_not_there(tmp_path, memory):
    for path in (str(tmp_path / "a"), memory):
        with (
            contextlib.suppress(KeyboardInterrupt),
            outputs.staged_directory(path, DATASET, overwrite=False) as staging,
        ):
            json_files.write_json(storage.join(staging, "content.json"), 1)
            assert not storage.exists(path)
            raise KeyboardInterrupt
        assert not storage.exists(path)
        assert not storage.exists(staging)
        make(path, 2)
        assert content_of(path) == 2
        assert len(storage.list_directory(path)) == 2
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_what_is_there_stays(tmp_path, memory):
    for path in (str(tmp_path / "a"), memory):
        make(path, 1)
        with pytest.raises(InputError, match="exists already; choose another or give --overwrite"):
            make(path, 2)
        with (
            pytest.raises(ValueError, match="no"),
            outputs.staged_directory(path, DATASET, overwrite=True),
        ):
            raise ValueError("no")
        assert content_of(path) == 1
        make(path, 3, overwrite=True)
        assert content_of(path) == 3
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_only_our_own_is_overwritten(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    make(str(path), 1, overwrite=True)
    for text in (None, "[]", "{}", "no"):
        (path / MANIFEST).unlink()
        if text:
            (path / MANIFEST).write_text(text)
        else:
            (path / "mine.txt").write_text("mine")
        with pytest.raises(
            InputError, match=r"holds something else \(no manifest.json of a dataset"
        ):
            make(str(path), 2, overwrite=True)
        (path / MANIFEST).touch()
    assert content_of(str(path)) == 1
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        make(str(file), 2, overwrite=True)


def test_what_came_meanwhile_stays(tmp_path):
    path = str(tmp_path / "a")
    with (
        pytest.raises(InputError, match="exists already"),
        outputs.staged_directory(path, DATASET, overwrite=False),
    ):
        make(path, 1)
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_a_link_in_place_of_an_output_is_refused(tmp_path):
    make(str(tmp_path / "real"), 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match="link is a symbolic link, so it is not replaced"):
        make(str(tmp_path / "link"), 2, overwrite=True)
    assert content_of(str(tmp_path / "real")) == 1


def test_a_link_on_the_way_to_an_output_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(str(tmp_path / "link" / "a"), 1)
    make(str(tmp_path / "link" / "a"), 2, overwrite=True)
    assert everything_in(tmp_path) == ["real", "real/a", "real/a/part"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=re.escape("file/a cannot be written: ")):
        make(str(tmp_path / "file" / "a"), 1)


def test_a_full_disk(tmp_path):
    path = str(tmp_path / "a")
    make(path, 1)
    message = r"a could not be made: \[Errno 28\] No space left on device"
    with (  # noqa: PT012
        pytest.raises(JobError, match=message),
        outputs.staged_directory(path, DATASET, overwrite=True) as staging,
    ):
        json_files.write_json(storage.join(staging, "a.json"), 1)
        json_files.write_json("/dev/full", 1)
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_a_directory_that_is_removed_meanwhile(tmp_path):
    (tmp_path / "deep").mkdir()
    with (  # noqa: PT012
        pytest.raises(JobError, match=r"a could not be made: .*No such file"),
        outputs.staged_directory(str(tmp_path / "deep" / "a"), DATASET, overwrite=False) as staging,
    ):
        storage.remove(str(tmp_path / "deep"))
        json_files.write_json(storage.join(staging, "part", "a.json"), 1)
    assert everything_in(tmp_path) == []


def test_what_was_there_comes_back_if_it_cannot_be_replaced(tmp_path):
    path = str(tmp_path / "a")
    make(path, 1)
    with (
        pytest.raises(JobError, match="a could not be made"),
        outputs.staged_directory(path, DATASET, overwrite=True) as staging,
    ):
        os.rename(staging, tmp_path / "elsewhere")
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part", "elsewhere"]


@pytest.fixture
def without_exchange(monkeypatch):
    """A file system that cannot exchange two names."""
    monkeypatch.setattr(local_files, "renameat2", lambda *_: False)


def test_without_an_exchange(tmp_path, without_exchange):
    path = str(tmp_path / "a")
    make(path, 1)
    make(path, 2, overwrite=True)
    assert content_of(path) == 2
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_what_was_there_comes_back_if_it_was_moved_away_already(
    tmp_path, monkeypatch, without_exchange
):
    path = str(tmp_path / "a")
    make(path, 1)
    rename = os.rename

    def fail_at_the_last(source, target):
        if target == path and not source.endswith(".old"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_at_the_last)
    with pytest.raises(JobError, match=r"a could not be made: .*No space left"):
        make(path, 2, overwrite=True)
    assert content_of(path) == 1
    assert everything_in(tmp_path) == ["a", "a/part"]


def test_what_a_run_killed_between_two_renames_moved_away_is_back_with_the_next(tmp_path, caplog):
    path = str(tmp_path / "a")
    make(path, 1)
    script = (
        "import os, sys; path = sys.argv[1]\n"
        "from dask_als.core import json_files, local_files, outputs, ownership, storage\n"
        "local_files.renameat2 = lambda *_: False\n"
        "rename = os.rename\n"
        "def killed(source, target):\n"
        "    rename(source, target)\n"
        "    if target.endswith('.old'): os.kill(os.getpid(), 9)\n"
        "os.rename = killed\n"
        "with outputs.staged_directory(path, ownership.DATASET, overwrite=True) as staging:\n"
        "    json_files.write_manifest(f'{staging}/manifest.json', {}, format_version=1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    assert not os.path.exists(path)
    with pytest.raises(InputError, match="exists already"):
        make(path, 2)
    assert content_of(path) == 1
    assert os.listdir(tmp_path) == ["a"]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == f"restored {path}, which a killed run had moved away"
    assert len(told) == 2


def test_nothing_is_left_of_what_is_written_while_it_is_removed(tmp_path, monkeypatch):
    """A task that is still at work cannot bring a removed directory back."""
    directory = tmp_path / "a"
    json_files.write_json(str(directory / "one.json"), 1)
    rmtree = local_files.shutil.rmtree

    def rmtree_beside_a_task(path, **options):
        with pytest.raises(FileNotFoundError):
            json_files.write_json(str(directory / "part" / "two.json"), 1)
        rmtree(path, **options)

    monkeypatch.setattr(local_files.shutil, "rmtree", rmtree_beside_a_task)
    storage.remove(str(directory))
    assert everything_in(tmp_path) == []


def test_without_renaming_the_manifest_arrives_last(memory, monkeypatch):
    moved = []
    filesystem = storage.file_system(memory)[0]
    mv = filesystem.mv
    monkeypatch.setattr(filesystem, "mv", lambda one, other: (moved.append(other), mv(one, other)))
    make(memory, 1)
    assert [name.rsplit("/", 1)[-1] for name in moved] == ["content.json", MANIFEST]


def killed_while_making(path):
    """Let a process be killed while it makes a directory."""
    script = (
        "import os, sys; path = sys.argv[1]\n"
        "from dask_als.core import json_files, local_files, outputs, ownership, storage\n"
        "with outputs.staged_directory(path, ownership.DATASET, overwrite=True) as staging:\n"
        "    json_files.write_json(storage.join(staging, 'a.json'), 1)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -9


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    path = str(tmp_path / "a")
    killed_while_making(str(tmp_path / "a.b"))
    killed_while_making(path)
    assert sorted(re.sub("[0-9a-f]{16}", "*", name) for name in os.listdir(tmp_path)) == [
        ".a.*.partial",
        ".a.b.*.partial",
    ]
    make(path, 1)
    assert content_of(path) == 1
    (left,) = (name for name in os.listdir(tmp_path) if name != "a")
    assert left.startswith(".a.b.")
    assert sorted(os.listdir(path)) == [MANIFEST, "part"]


def test_a_note_that_a_killed_job_left_half_written_does_not_keep_its_output(tmp_path):
    path = str(tmp_path / "a")
    note = os.path.join(path, ownership.STEP_NOTE_NAME)
    make(path, 1)
    killed_while_making(note)
    (left,) = (name for name in os.listdir(path) if name.endswith(".partial"))
    make(path, 2, overwrite=True)
    assert content_of(path) == 2

    killed_while_making(note)
    os.mkdir(os.path.join(path, left.replace(".step.", ".other.")))
    with pytest.raises(InputError, match=r"other\.json.*which dask-als did not make"):
        make(path, 3, overwrite=True)
    assert content_of(path) == 2


def test_what_a_living_run_makes_is_not_removed(tmp_path):
    """Nor what only looks like one of ours."""
    path = str(tmp_path / "a")
    (tmp_path / ".a.01234567.partial").mkdir()
    with outputs.staged_directory(path, DATASET, overwrite=True) as staging:
        make(path, 1)
        assert storage.exists(staging)
        json_files.write_json(storage.join(staging, MANIFEST), {"format_version": 1})
    assert everything_in(tmp_path) == [".a.01234567.partial", "a"]


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("No locks available")

    path = str(tmp_path / "a")
    killed_while_making(path)
    monkeypatch.setattr(staging.fcntl, "flock", refuse)
    make(path, 1)
    assert content_of(path) == 1
    assert len(os.listdir(tmp_path)) == 2
