"""A dataset or a model that comes from a stranger runs no code when it is loaded."""

import ast
import builtins
import io
import marshal
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data import generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import SIDES
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

PACKAGE = Path(__file__).parents[1] / "dask_als"
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy"}
FUNCTIONS = {"eval", "exec", "compile", "__import__", "read_pickle", "allow_pickle"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_knows_how(path):
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                names = {alias.name.split(".")[0] for alias in node.names}
            case ast.ImportFrom():
                names = {(node.module or "").split(".")[0]}
            case ast.Name():
                names = {node.id} & FUNCTIONS
            case ast.Attribute():
                names = {node.attr} & (FUNCTIONS - {"compile"})
            case ast.keyword():
                names = {node.arg} & FUNCTIONS
            case _:
                names = set()
        assert not names & (MODULES | FUNCTIONS), f"{path.name}:{getattr(node, 'lineno', '')}"


@pytest.fixture
def written(tmp_path):
    """The paths of a dataset and a model."""
    serial = SerialExecutor()
    source = write_csv(tmp_path / "r.csv", generated(30, 40, 500))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    dataset = prepare(str(source), str(tmp_path / "d"), serial, settings=settings)
    train(dataset, str(tmp_path / "m"), small_settings(epochs=1), serial)
    return str(tmp_path / "d"), str(tmp_path / "m")


def load_all(dataset_path, model_path):
    dataset = open_dataset(dataset_path)
    for side in SIDES:
        for number, partition in enumerate(dataset.table(side).partitions):
            read_block(dataset_path, side, number, partition)
            read_test_block(dataset_path, number, dataset.users.partitions[number])
    model = ALSModel.load(model_path, dataset_path)
    return model.recommend(model.users.ids[0], 3)


def test_loading_needs_no_pickle(written, monkeypatch):
    # Once before, since importing what is not imported yet does execute code.
    before = load_all(*written)

    def refuse(*arguments, **options):
        raise AssertionError("code would have been run")

    class Refused(pickle.Unpickler):
        __init__ = refuse

    for module in (pickle, marshal):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refused)
    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, refuse)
    try:
        after = load_all(*written)
        for load in (lambda: pickle.loads(b"N."), lambda: pickle.Unpickler(io.BytesIO(b"N."))):
            with pytest.raises(AssertionError, match="would have been run"):
                load()
    finally:
        monkeypatch.undo()
    assert after.equals(before)


class Hostile:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_hostile_column_is_harmless(written, tmp_path):
    """Arrow once unpickled the type of a column on reading (CVE-2023-47248)."""
    trap = str(tmp_path / "trapped")
    for path in (Path(written[0], "items.parquet"), Path(written[1], "users/part-00000.parquet")):
        table = pq.read_table(path)
        hostile = {
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Hostile(trap)),
        }
        fields = [field.with_metadata(hostile) for field in table.schema]
        pq.write_table(table.cast(pa.schema(fields)), path)
    for load in (load_all, lambda dataset, model: ALSModel.load(model)):
        try:
            load(*written)
        except ValueError as error:
            assert "damaged" in str(error)  # noqa: PT017
        assert not os.path.exists(trap)
    pickle.loads(pickle.dumps(Hostile(trap)))
    assert os.path.exists(trap)
