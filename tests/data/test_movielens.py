import hashlib
import io
import zipfile

import pytest

from dask_als.cli.console import Download, Screen
from dask_als.core.executor import SerialExecutor
from dask_als.data.movielens import fetch
from dask_als.data.prepare import prepare
from dask_als.errors import InputError, JobError


def archive():
    """Return an archive in GroupLens' layout."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
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
    with pytest.raises(
        InputError, match="'ml-1m' cannot be fetched; choose one of ml-latest-small"
    ):
        fetch("ml-1m", ".")
