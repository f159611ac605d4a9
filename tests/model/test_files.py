import json
import math
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data import generated, small_settings, write_csv

from dask_als.core import json_files
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    source = write_csv(directory / "r.csv", generated(20, 30, 300))
    dataset = prepare(
        str(source), str(directory / "d"), SERIAL, settings=PrepareSettings(partitions=3)
    )
    train(dataset, str(directory / "m"), small_settings(), SERIAL)
    return directory / "m"


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "m")


def test_the_files_are_what_the_design_says(model):
    assert sorted(path.relative_to(model).as_posix() for path in model.rglob("*.*")) == [
        "history.jsonl",
        *(f"items/part-0000{n}.parquet" for n in range(3)),
        "model.json",
        *(f"users/part-0000{n}.parquet" for n in range(3)),
    ]
    table = pq.read_table(model / "users")
    assert table.schema.names == ["id", "count", "bias", "factors"]
    assert str(table.schema.field("factors").type).startswith("fixed_size_list<")
    assert table.schema.field("factors").type.list_size == 4
    manifest = json.loads((model / "model.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["rank"] == 4
    assert manifest["figures"]["epoch"] == 3
    lines = [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == {"epoch", "objective", "train_rmse", "test_rmse", "seconds"}
    assert lines[0]["test_rmse"] is None
    assert all(math.isfinite(line["objective"]) for line in lines)


def test_the_manifest_makes_the_trip(model):
    manifest = model_manifest.read_manifest(str(model))
    (model / "model.json").unlink()
    model_manifest.write_manifest(str(model), manifest)
    assert model_manifest.read_manifest(str(model)) == manifest


@pytest.mark.parametrize("rows", [range(20), range(3, 4), range(5, 18), range(19, 20)])
def test_a_state_is_read_from_whichever_parts_hold_it(model, rows):
    whole = ALSModel.load(str(model)).users.state
    part, rated = model_files.read_state(str(model), USERS, rows, "float32")
    assert part.factors.tobytes() == whole.factors[rows.start : rows.stop].tobytes()
    assert part.bias.tobytes() == whole.bias[rows.start : rows.stop].tobytes()
    assert rated.all()
    state, _ = model_files.read_state(str(model), ITEMS, range(2), "float64")
    assert state.bias.dtype == "float64"


def test_what_is_no_model(tmp_path):
    with pytest.raises(InputError, match="is not there; make one with: dask-als train"):
        model_manifest.read_manifest(str(tmp_path / "no"))
    with pytest.raises(InputError, match=r"is not a model \(no model.json\)"):
        model_manifest.read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "version 2"),
        (lambda text: text[:100], "not JSON"),
        (lambda text: text.replace('"digest"', '"digist"'), "changed after it was written"),
        (lambda text: text.replace('"samples": 1', '"samples": 2'), "its checksum differs"),
        (lambda text: "[]", "not a JSON object"),
    ],
)
def test_a_manifest_that_was_edited(model, edit, reason):
    path = model / "model.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=reason):
        ALSModel.load(str(model))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda value: value["users"].update(digist=value["users"].pop("digest")), "is damaged"),
        (lambda value: value["settings"].update(rank=-4), "rank is -4"),
        (lambda value: value.pop("figures"), "is damaged: figures is missing"),
        (
            lambda value: value["users"]["partitions"][2].update(stop=21),
            "it holds 6 rows instead of 7",
        ),
    ],
)
def test_a_manifest_that_makes_no_sense(model, edit, reason):
    """One with the right checksum, by somebody who knows how."""
    path = str(model / "model.json")
    value = json_files.read_manifest(path, format_version=1)
    edit(value)
    json_files.write_manifest(path, value, format_version=1)
    with pytest.raises(InputError, match=reason):
        ALSModel.load(str(model))


def test_swapped_parts(model):
    one, other = (model / "users" / f"part-0000{n}.parquet" for n in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(InputError, match=r"users/part-00000.parquet .* CRC-32 differs"):
        ALSModel.load(str(model))


@given(data=st.data())
def test_a_flipped_bit_anywhere(trained, data):
    with tempfile.TemporaryDirectory() as directory:
        model = shutil.copytree(trained, directory, dirs_exist_ok=True)
        parts = sorted(Path(model).rglob("*.parquet"))
        path = data.draw(st.sampled_from(parts))
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path.name} is damaged"):
            ALSModel.load(str(model))


def test_a_saved_model_is_checked_as_well(model, tmp_path):
    saved = tmp_path / "saved"
    ALSModel.load(str(model)).save(str(saved))
    ALSModel.load(str(saved))
    path = saved / "items" / "part-00000.parquet"
    shutil.copy(saved / "items" / "part-00001.parquet", path)
    with pytest.raises(InputError, match=r"items/part-00000.parquet .* CRC-32 differs"):
        ALSModel.load(str(saved))


def test_a_missing_part(model):
    (model / "users" / "part-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"users/part-00001.parquet is missing"):
        ALSModel.load(str(model))


def test_a_truncated_part(model):
    path = model / "items" / "part-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"items/part-00002.parquet is damaged"):
        ALSModel.load(str(model))
