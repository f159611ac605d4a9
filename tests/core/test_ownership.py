"""No command changes, removes or follows what it did not make: folders full of strangers."""

import contextlib
import hashlib
import json
import os
import shutil
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data import generated, small_settings, write_csv

from dask_als.cli.demo_data import _write_once
from dask_als.core import json_files, outputs, ownership
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.data.synthetic import GenerateSettings, write_ratings
from dask_als.errors import DaskALSError, InputError
from dask_als.jobs.job_file import job_from_toml
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.jobs.tuned_job import check_job_path, tuned_job, write_job
from dask_als.model.fold_in import fold_in
from dask_als.model.model import ALSModel
from dask_als.model.recommend import recommend
from dask_als.monitor.trace import traced
from dask_als.report.page import write_report
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import RecommendSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
N_FOLDERS = int(os.environ.get("DASK_ALS_FOLDERS", "20"))
"""How many folders of strangers are tried."""

NAMES = [
    "holdout-sample-1",
    "personal-best-10",
    "movie.mp4.partial",
    "thesis.partial",
    ".model.0123abcd.partial",
    ".model.0123456789abcdef.partial",
    ".epoch-00002.0123456789abcdef.partial",
    "blood-sample-0042",
    "epoch-00001",
    "epoch-00002\n",
    "epoch-00002",
    "best-00001",
    "sample-00002",
    "manifest.json",
    "model.json",
    "recommendations.json",
    "_recommendations.parquet",
    "result.json",
    "evaluation.json",
    "evaluation.step.json",
    "step.json",
    ".in-use",
    ".lock",
    "history.jsonl",
    "dataset",
    "model",
    "checkpoints",
    "recommendations",
    "users",
    "by_user",
    "users.parquet",
    "part-00000.parquet",
    "part-00009.parquet",
    "trace.jsonl",
    "report.html",
    "job.toml",
    "ratings.csv",
]
TEXTS = [
    "precious",
    "",
    "{}",
    '{"format_version": 2, "header": {}}',
    '{"mine": 1}',
    "<html>",
    "[1]",
]
STRANGER = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(TEXTS)),
    st.tuples(st.just("folder"), st.sampled_from(["", "a", *NAMES])),
    st.tuples(st.just("link"), st.sampled_from(["file", "folder", "nowhere"])),
)
JUDGED = ["manifest.json", "model.json", "recommendations.json", "_recommendations.parquet"]
JUDGED += ["step.json"]
"""What is judged by its content, wherever it is."""
PLACES = ["", "dataset", "model", "recommendations", "checkpoints", "checkpoints/epoch-00001", "o"]
PLACES += ["dataset/by_user", "model/users", "o/dataset", "o/model", "o/checkpoints"]
STRANGERS = st.dictionaries(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(NAMES)), STRANGER, min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A folder with one output of each kind."""
    folder = tmp_path_factory.mktemp("ours") / "f"
    folder.mkdir()
    write_csv(folder.parent / "r.csv", generated(20, 20, 200))
    for _, write in commands(str(folder), str(folder.parent / "r.csv")):
        write()
    assert (folder / "o" / "recommendations").is_dir()
    return folder


def job(folder, source):
    return job_from_toml(
        f'name = "j"\noutput = "{folder}/o"\nsource.path = "{source}"\n'
        "prepare = { test_fraction = 0.2, partitions = 1 }\n"
        "train = { rank = 2, epochs = 2 }\ncheckpoint = { every = 1 }\n"
    )


def commands(folder, source):
    """Return all that writes, by its name: into one folder, where it may replace what is ours."""
    at = {name: f"{folder}/{name}" for name in ("dataset", "model", "checkpoints")}
    settings = small_settings(rank=2, epochs=2)

    def dataset():
        its = PrepareSettings(test_fraction=0.2, partitions=1)
        return prepare(source, at["dataset"], SERIAL, settings=its, overwrite=True)

    prepared = []

    def its_dataset():
        if not prepared:
            path = f"{os.path.dirname(source)}/prepared"
            if not os.path.exists(path):
                its = PrepareSettings(test_fraction=0.2, partitions=1)
                prepare(source, path, SERIAL, settings=its)
                train(open_dataset(path), f"{path}-model", settings, SERIAL)
            prepared.append(open_dataset(path))
        return prepared[0]

    def trained():
        return f"{its_dataset().path}-model"

    def run():
        with recorded(job(folder, source)) as result:
            run_job(job(folder, source), SERIAL, result)

    def tuned():
        path = f"{folder}/job.toml"
        check_job_path(path, overwrite=True)
        write_job(path, tuned_job(its_dataset(), settings, path), "rmse 1 by cross-validation")

    def trace():
        with traced(f"{folder}/trace.jsonl"):
            pass

    checkpoints = CheckpointSettings(directory=at["checkpoints"], every=1)
    return [
        ("prepare", dataset),
        (
            "train",
            lambda: train(
                its_dataset(),
                at["model"],
                settings,
                SERIAL,
                checkpoints=checkpoints,
                overwrite=True,
            ),
        ),
        (
            "recommend",
            lambda: recommend(
                trained(),
                its_dataset(),
                f"{folder}/recommendations",
                SERIAL,
                RecommendSettings(k=2),
                overwrite=True,
            ),
        ),
        ("fold-in", lambda: fold_in(source, trained(), f"{folder}/folded", SERIAL, USERS)),
        ("save", lambda: ALSModel.load(trained()).save(at["model"], overwrite=True)),
        ("run", run),
        ("tune", tuned),
        ("trace", trace),
        ("report", lambda: write_report(f"{folder}/report.html", "<html><head></head></html>")),
        (
            "generate",
            lambda: write_ratings(
                GenerateSettings(n_users=9, n_items=9, n_ratings=30), f"{folder}/generated.csv"
            ),
        ),
    ]


def put(folder, strangers, victims):
    """Put strangers into a folder, in place of what is ours there; return their paths."""
    paths = []
    for (place, name), (what, detail) in strangers.items():
        parent = os.path.join(folder, place)
        path = os.path.join(parent, name)
        taken = any(path.startswith(f"{p}/") or p.startswith(f"{path}/") for p in paths)
        if taken or (os.path.lexists(parent) and not is_plain_directory(parent)):
            continue
        if os.path.isfile(path) and place not in ("", "o") and name not in JUDGED:
            continue  # It is listed there, whatever is in it: a damaged output can be replaced.
        os.makedirs(parent, exist_ok=True)
        if is_plain_directory(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        if what == "file":
            with open(path, "w") as file:
                file.write(detail)
        elif what == "folder":
            os.mkdir(path)
            if detail:
                with open(os.path.join(path, detail), "w") as file:
                    file.write("precious")
        else:
            os.symlink(os.path.join(victims, detail), path)
        paths.append(path)
    return paths


def is_plain_directory(path):
    return os.path.isdir(path) and not os.path.islink(path)


def state(paths):
    """Return what is at paths, and below: kinds, contents, targets of links."""
    found = {}
    for path in paths:
        mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
        if stat.S_ISLNK(mode):
            found[path] = os.readlink(path)
        elif stat.S_ISDIR(mode):
            found[path] = "directory"
            found |= state(os.path.join(path, name) for name in os.listdir(path))
        elif stat.S_ISREG(mode):
            with open(path, "rb") as file:
                found[path] = hashlib.sha256(file.read()).hexdigest()
    return found


@given(strangers=STRANGERS)
@settings(max_examples=N_FOLDERS)
def test_no_stranger_is_touched(ours, tmp_path_factory, strangers):
    scratch = tmp_path_factory.mktemp("strangers")
    folder, victims = scratch / "f", scratch / "victims"
    (victims / "folder").mkdir(parents=True)
    (victims / "folder" / "a").write_text("precious")
    (victims / "file").write_text("precious")
    shutil.copytree(ours, folder)
    paths = [*put(str(folder), strangers, str(victims)), str(victims)]
    before = {path: its for path, its in state(paths).items() if not is_empty_in_use(path)}
    # An empty folder is a place for an output, as if it were not there.
    empty = {path for path in before if is_plain_directory(path) and not os.listdir(path)}
    for name, write in commands(str(folder), str(ours.parent / "r.csv")):
        with contextlib.suppress(DaskALSError):
            write()
        after = state(paths)
        assert {path: after.get(path) for path in before} == before, name
        # Nor is anything put into a stranger's folder, or where a link leads.
        added = {path for path in after if path not in before and not is_empty_in_use(path)}
        added = {path for path in added if not any(path.startswith(f"{it}/") for it in empty)}
        assert not [path for path in added if not is_of_ours(path, str(folder))], name
    shutil.rmtree(scratch)


def is_empty_in_use(path):
    """An empty lock is what a run leaves that was killed before it wrote into it."""
    is_plain = os.path.isfile(path) and not os.path.islink(path)
    return is_plain and os.path.basename(path) == ".in-use" and os.path.getsize(path) == 0


def is_of_ours(path, folder):
    """A stranger's folder in which the user asked for an output: the job's, or checkpoints."""
    inside = os.path.relpath(path, folder).split("/")
    return inside[0] in ("checkpoints", "o") and len(inside) > 1


@pytest.fixture
def dataset_and_source(tmp_path):
    source = str(write_csv(tmp_path / "r.csv", generated(20, 20, 200)))
    prepare(source, str(tmp_path / "d"), SERIAL)
    return tmp_path / "d", source


def test_a_source_in_what_would_be_replaced(dataset_and_source):
    dataset, source = dataset_and_source
    shutil.copy(source, dataset / "raw.csv")
    with pytest.raises(InputError, match=r"holds the input .*raw.csv, so it is not replaced"):
        prepare(str(dataset / "raw.csv"), str(dataset), SERIAL, overwrite=True)
    assert (dataset / "raw.csv").exists()
    with pytest.raises(InputError, match=r"holds raw.csv, which dask-als did not make"):
        prepare(source, str(dataset), SERIAL, overwrite=True)
    os.unlink(dataset / "raw.csv")
    (dataset / "by_user" / "part-00009.parquet").touch()
    with pytest.raises(InputError, match=r"holds by_user/part-00009.parquet, which"):
        prepare(source, str(dataset), SERIAL, overwrite=True)


def test_a_kind_is_replaced_by_its_own_kind_alone(dataset_and_source):
    dataset, source = dataset_and_source
    with pytest.raises(InputError, match=r"d is an input, so it is not replaced"):
        train(open_dataset(str(dataset)), str(dataset), small_settings(), SERIAL, overwrite=True)
    model = dataset.parent / "m"
    train(open_dataset(str(dataset)), str(model), small_settings(), SERIAL)
    with pytest.raises(InputError, match=r"m holds something else \(no manifest.json of a dataset"):
        prepare(source, str(model), SERIAL, overwrite=True)
    assert ownership.files_of(str(model), ownership.MODEL)
    with pytest.raises(InputError):
        ownership.files_of(str(model), ownership.CHECKPOINT)


def test_outputs_of_the_release_before_are_ours(dataset_and_source):
    """Their manifests have no marker and no list; what does not belong to them is not theirs."""
    dataset, source = dataset_and_source
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("checksum", *json_files.MARK_KEYS):
        del manifest[key]
    json_files.write_with_checksum(str(path), manifest)
    (dataset / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds notes.txt, which"):
        prepare(source, str(dataset), SERIAL, overwrite=True)
    os.unlink(dataset / "notes.txt")
    prepare(source, str(dataset), SERIAL, overwrite=True)
    assert "made_by" in json.loads(path.read_text())


@pytest.mark.parametrize(
    "text", ['{"format_version": 2, "header": {}}', '{"format_version": 1}', "{}", "[]", "no"]
)
def test_a_manifest_of_others(dataset_and_source, text):
    dataset, source = dataset_and_source
    (dataset / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="holds something else"):
        prepare(source, str(dataset), SERIAL, overwrite=True)


FILE_KINDS = [kind for kind in vars(ownership).values() if isinstance(kind, ownership.FileKind)]


def marked(kind):
    if kind.format == "json":
        return ownership.marked_json(kind, {"a": 1})
    return ownership.marked_text(kind, "<html>\n<head>\n</head></html>\n")


@pytest.mark.parametrize("kind", FILE_KINDS, ids=lambda kind: kind.name)
def test_a_file_is_replaced_by_its_own_kind_alone(tmp_path, kind):
    path = str(tmp_path / "f")
    outputs.replace_text(path, kind, marked(kind))
    outputs.replace_text(path, kind, marked(kind))
    for other in FILE_KINDS:
        if other is not kind:
            with pytest.raises(InputError, match=f"exists and is not a dask-als {other.name}"):
                outputs.replace_text(path, other, marked(other))
    assert (tmp_path / "f").read_text() == marked(kind)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(InputError, match="link is a symbolic link"):
        outputs.replace_text(str(tmp_path / "link"), kind, marked(kind))
    for text in ("", "precious", "{}", '{"kind": "trace"}', "[]", "<html><head></head>"):
        (tmp_path / "f").write_text(text)
        with pytest.raises(InputError, match="so it is not replaced"):
            outputs.replace_text(path, kind, marked(kind))
        assert (tmp_path / "f").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["f", "link"]


def test_names_that_prove_themselves():
    name = ownership.staging_name("model", "01234567")
    assert ownership.name_staged_in(name) == "model"
    for other in (".model.0123456789abcdef.partial", f"{name}\n", name[1:], "movie.mp4.partial"):
        assert ownership.name_staged_in(other) is None


def test_the_files_of_a_manifest_do_not_lead_out_of_it(dataset_and_source):
    dataset, _ = dataset_and_source
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    manifest["files"] += ["../r.csv", "/etc/hostname", "a/../../r.csv", ""]
    json_files.write_with_checksum(str(path), manifest)
    outputs.remove(str(dataset), ownership.DATASET)
    assert os.listdir(dataset.parent) == ["r.csv"]


def test_the_demo_leaves_another_file_alone(tmp_path):
    import pandas as pd

    table = pd.DataFrame({"a": [1]})
    path = tmp_path / "d" / "ratings.csv"
    _write_once(path, table)
    _write_once(path, table)
    path.write_text("mine")
    with pytest.raises(InputError, match=r"ratings.csv exists already"):
        _write_once(path, table)
    assert path.read_text() == "mine"


def test_evaluation_of_others_is_told_before_any_step(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(20, 20, 200))
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "evaluation.json").write_text('{"mine": 1}')
    its = job(str(tmp_path), str(source))
    with (
        pytest.raises(InputError, match=r"evaluation.json exists and is not a dask-als evaluation"),
        recorded(its) as result,
    ):
        run_job(its, SERIAL, result)
    assert sorted(os.listdir(tmp_path / "o")) == [".in-use", "evaluation.json", "result.json"]
