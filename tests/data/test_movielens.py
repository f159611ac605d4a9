import hashlib
import io
import re
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies

from dask_als.cli.commands.fetch import fetch as fetch_command
from dask_als.cli.console import Download, Screen
from dask_als.core.executor import SerialExecutor
from dask_als.data.movielens import ARCHIVES, _problem_of, fetch
from dask_als.data.prepare import prepare
from dask_als.errors import InputError, JobError


def archive(compression=zipfile.ZIP_STORED):
    """Return an archive in GroupLens' layout."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        ratings = "".join(f"{user},{item},3.5,1\r\n" for user in range(9) for item in range(9))
        file.writestr("ml-25m/ratings.csv", "userId,movieId,rating,timestamp\r\n" + ratings)
        file.writestr(
            "ml-25m/movies.csv", 'movieId,title,genres\r\n3,"Third, The (1999)",Drama\r\n'
        )
        file.writestr("ml-25m/README.txt", "read me")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["{md5}  ml-25m.zip\n", "MD5 (ml-25m.zip) = {md5}\n"])
def test_an_archive_that_is_what_its_checksum_says(tmp_path, site, form):
    folder, address = site
    content = archive()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (folder / "ml-25m.zip").write_bytes(content)
    (folder / "ml-25m.zip.md5").write_text(form.format(md5=md5))
    progress = Download(Screen(file=io.StringIO()))
    fetched = fetch("ml-25m", str(tmp_path / "to"), base_url=address, progress=progress)
    assert fetched.md5 == md5
    dataset = prepare(fetched.path, str(tmp_path / "dataset"), SerialExecutor())
    assert dataset.n_ratings == 81
    assert dataset.has_titles


def test_one_that_is_there_already_is_not_fetched_again(tmp_path, site):
    folder, address = site
    content = archive()
    (folder / "ml-25m.zip").write_bytes(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (folder / "ml-25m.zip.md5").write_text(md5)
    fetch("ml-25m", str(tmp_path), base_url=address)
    (folder / "ml-25m.zip").unlink()
    assert fetch("ml-25m", str(tmp_path), base_url=address).md5 == md5


def test_another_checksum(tmp_path, site):
    folder, address = site
    (folder / "ml-25m.zip").write_bytes(archive())
    (folder / "ml-25m.zip.md5").write_text("0" * 32)
    with pytest.raises(JobError, match=r"could not be fetched.*hash"):
        fetch("ml-25m", str(tmp_path / "to"), base_url=address)
    assert not list((tmp_path / "to").glob("*"))


def test_without_a_published_checksum_the_archive_must_be_whole(tmp_path, site):
    folder, address = site
    content = archive()
    (folder / "ml-latest-small.zip").write_bytes(content)
    assert fetch("ml-latest-small", str(tmp_path / "a"), base_url=address).md5 is None
    damaged = bytearray(content)
    damaged[60] ^= 1
    (folder / "ml-latest-small.zip").write_bytes(damaged)
    with pytest.raises(JobError, match=r"was damaged .* fetch it again"):
        fetch("ml-latest-small", str(tmp_path / "b"), base_url=address)
    (folder / "ml-latest-small.zip").write_bytes(content[:-30])
    with pytest.raises(JobError, match=r"was damaged .* fetch it again"):
        fetch("ml-latest-small", str(tmp_path / "b"), base_url=address)
    assert not list((tmp_path / "b").glob("*"))


def test_an_archive_that_is_not_there(tmp_path, site):
    with pytest.raises(JobError, match="could not be fetched: 404"):
        fetch("ml-32m", str(tmp_path / "to"), base_url=site[1])


def test_offline(tmp_path):
    with pytest.raises(JobError, match="cannot be reached; are you offline"):
        fetch("ml-25m", str(tmp_path), base_url="http://127.0.0.1:9")


def test_a_folder_that_cannot_be_written(tmp_path, site):
    folder, address = site
    (folder / "ml-25m.zip").write_bytes(archive())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/to/ml-25m\.zip cannot be written: Not a directory"):
        fetch("ml-25m", str(tmp_path / "file" / "to"), base_url=address)


def test_unknown_names():
    with pytest.raises(InputError, match=r"'ml-2m' cannot be fetched; choose one of .*ml-1m, .*"):
        fetch("ml-2m", ".")


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_archive_has_a_name_that_the_help_lists(tmp_path, site, name):
    folder, address = site
    (folder / ARCHIVES[name].file).write_bytes(archive())
    fetched = fetch(name, str(tmp_path / "to"), base_url=f"{address}/")
    assert fetched.path == str(tmp_path / "to" / ARCHIVES[name].file)
    assert name in re.split(r"[\s,(]+", fetch_command.help)


def test_a_file_that_is_too_large_is_not_downloaded_to_its_end(tmp_path, site, monkeypatch):
    folder, address = site
    monkeypatch.setitem(ARCHIVES, "ml-1m", replace(ARCHIVES["ml-1m"], max_bytes=2 << 20))
    (folder / "ml-1m.zip").write_bytes(bytes(3 << 20))
    with pytest.raises(JobError, match=r"ml-1m\.zip could not be fetched: it is larger than 2 MiB"):
        fetch("ml-1m", str(tmp_path / "to"), base_url=address)
    assert not list((tmp_path / "to").glob("*"))


def test_an_archive_that_unpacks_to_too_much(tmp_path, site, monkeypatch):
    folder, address = site
    monkeypatch.setitem(ARCHIVES, "ml-1m", replace(ARCHIVES["ml-1m"], max_bytes=1 << 20))
    with zipfile.ZipFile(folder / "ml-1m.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml-1m/ratings.dat", bytes(21 << 20))
    with pytest.raises(
        JobError, match=r"was damaged \(unpacked it has 21 MiB, which is too much\)"
    ):
        fetch("ml-1m", str(tmp_path / "to"), base_url=address)
    assert not list((tmp_path / "to").glob("*"))


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>Not found</html>" * 20])
def test_what_is_no_archive(tmp_path, site, content):
    folder, address = site
    (folder / "goodbooks-10k.zip").write_bytes(content)
    with pytest.raises(JobError, match=r"was damaged \(not a complete zip archive\)"):
        fetch("goodbooks", str(tmp_path / "to"), base_url=address)
    assert not list((tmp_path / "to").glob("*"))


@settings(max_examples=40)
@given(position=strategies.integers(0, 10**6), bit=strategies.integers(0, 7))
def test_a_flipped_bit_never_passes_for_other_ratings(tmp_path_factory, position, bit):
    folder = tmp_path_factory.mktemp("damaged")
    path, known = folder / "ml-1m.zip", archive(zipfile.ZIP_DEFLATED)
    damaged = bytearray(known)
    damaged[position % len(damaged)] ^= 1 << bit
    path.write_bytes(damaged)
    if _problem_of(str(path), ARCHIVES["ml-1m"]) is None:
        with zipfile.ZipFile(path) as file, zipfile.ZipFile(io.BytesIO(known)) as good:
            pairs = zip(file.infolist(), good.infolist(), strict=True)
            assert all(file.read(one) == good.read(other) for one, other in pairs)
