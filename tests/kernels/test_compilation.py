"""Tests of the key by which compiled kernels are found in the cache."""

import shutil
from pathlib import Path

import pytest

from dask_als.kernels import compilation
from dask_als.kernels.compilation import digest_of_sources

FOLDER = Path(compilation.__file__).parent


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    digest_of_sources.cache_clear()
    yield tmp_path / "kernels"
    digest_of_sources.cache_clear()


def digest(folder):
    digest_of_sources.cache_clear()
    return digest_of_sources(folder)


def test_a_copy_has_the_same_key(copy):
    assert digest(copy) == digest(FOLDER)


@pytest.mark.parametrize("place", ["new.py", "simd/new.py", "new_folder/new.py"])
def test_a_new_module_changes_the_key(copy, place):
    before = digest(copy)
    (copy / place).parent.mkdir(exist_ok=True)
    (copy / place).write_text("")
    assert digest(copy) != before


@pytest.mark.parametrize("module", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_an_edit_of_any_module_changes_the_key(copy, module):
    before = digest(copy)
    edited = copy / module.relative_to(FOLDER)
    edited.write_text(edited.read_text() + "\n")
    assert digest(copy) != before


def test_a_moved_module_changes_the_key(copy):
    before = digest(copy)
    (copy / "gram.py").rename(copy / "simd" / "gram.py")
    assert digest(copy) != before
