import json

import pytest

from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.errors import InputError
from dask_als.model import sample_files
from dask_als.model.sample_files import SampleManifest, SampleSide

MANIFEST = SampleManifest({USERS: SampleSide(0.25, (3, 4)), ITEMS: SampleSide(-0.5, (5,))}, 1.5)


def test_the_manifest_makes_the_trip(tmp_path):
    sample_files.write_manifest(str(tmp_path), MANIFEST)
    assert sample_files.read_manifest(str(tmp_path)) == MANIFEST
    value = json.loads((tmp_path / "sample.json").read_text())
    assert set(value) == {
        "format_version",
        *(side.name for side in SIDES),
        "residual_precision",
        "checksum",
    }


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda text: text.replace("1.5", "1.6"), "its checksum differs"),
        (lambda text: text[:-20], "not JSON"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "version 2"),
    ],
)
def test_a_manifest_that_was_edited(tmp_path, edit, reason):
    sample_files.write_manifest(str(tmp_path), MANIFEST)
    path = tmp_path / "sample.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=reason):
        sample_files.read_manifest(str(tmp_path))
