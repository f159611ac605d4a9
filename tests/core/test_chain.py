"""Every byte that is read back is covered by a chain of checksums, from the manifest on.

A walk over all files of every kind of output: each is changed, cut, emptied, doubled, or swapped
with its sibling, and all that reads it then names a damaged file, or comes to the same results.
"""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als.core import checksums, json_files, parquet_manifest
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, prepare
from dask_als.errors import InputError
from dask_als.evaluation.evaluate import evaluate
from dask_als.jobs.job_file import Job, SourceSettings
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.model import recommend
from dask_als.model.fold_in import fold_in
from dask_als.model.model import ALSModel
from dask_als.model.training_data import found_dataset, recently_read_block
from dask_als.report.data import measure_errors
from dask_als.settings import reduction
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings, RecommendSettings
from dask_als.settings.training import CheckpointPolicy, CheckpointSettings, StopSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
GIBBS = {
    "method": "gibbs",
    "rank": 3,
    "burn_in": 2,
    "samples": 4,
    "epochs": None,
}
PATIENT = StopSettings(patience=50)


class Stop(Exception):
    """Ends a training in its middle."""


def train_until(at, *arguments, **options):
    def stop(figures):
        if figures.epoch == at:
            raise Stop

    with pytest.raises(Stop):
        train(*arguments, on_epoch=stop, **options)


@pytest.fixture(scope="module", autouse=True)
def small_working_rank():
    """Two samples of rank 3 are reduced at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "_LEAST_WORKING_RANK", 6)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with every kind of output."""
    root = tmp_path_factory.mktemp("chain")
    rows = [*generated(30, 25, 350), (1, 2, "much")]
    write_csv(root / "r.csv", rows)
    write_csv(root / "t.csv", [(item, f"Film {item}") for item in range(99)], ("movieId", "title"))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    titles = Titles(str(root / "t.csv"))
    dataset = prepare(
        str(root / "r.csv"), str(root / "d"), SERIAL, settings=settings, titles=titles
    )
    train(dataset, str(root / "m"), small_settings(), SERIAL)
    train(dataset, str(root / "g"), small_settings(**GIBBS, keep_samples=True), SERIAL)
    train(*compact_training(root, "k"))
    train_until(5, *patient_training(root), checkpoints=checkpoints(root / "c"), stopping=PATIENT)
    train_until(5, *gibbs_training(root), checkpoints=checkpoints(root / "gc"))
    train_until(5, *compact_training(root), checkpoints=checkpoints(root / "kc"))
    assert list((root / "kc").glob("reduction-*"))
    fold_in(str(root / "r.csv"), str(root / "m"), str(root / "f"), SERIAL, USERS)
    ALSModel.load(str(root / "m")).save(str(root / "s"))
    run(job(root))
    return root


def patient_training(root, model="none"):
    # The held-out error rises soon: the best model is one of an epoch that is over.
    settings = small_settings(epochs=6, bias_regularization=0.01, factor_regularization=0.01)
    return open_dataset(str(root / "d")), str(root / model), settings, SERIAL


def gibbs_training(root, model="none"):
    settings = small_settings(**GIBBS, keep_samples=True)
    return open_dataset(str(root / "d")), str(root / model), settings, SERIAL


def compact_training(root, model="none"):
    return open_dataset(str(root / "d")), str(root / model), small_settings(**GIBBS), SERIAL


def checkpoints(folder, **changes):
    return CheckpointSettings(directory=str(folder), every=2, **changes)


def job(root):
    return Job(
        name="small",
        output=str(root / "o"),
        source=SourceSettings(path=str(root / "r.csv")),
        prepare=PrepareSettings(test_fraction=0.2, partitions=2),
        train=small_settings(epochs=2),
        checkpoint=CheckpointPolicy(every=2),
    )


def run(job):
    with recorded(job) as result:
        run_job(job, SERIAL, result)


def resumed(root, folder, training, stopping=StopSettings()):
    shutil.copytree(root / folder, root / "again")
    its = checkpoints(root / "again", resume=True)
    train(*training(root, "resumed"), checkpoints=its, stopping=stopping)
    return content(str(root / "resumed"))


def recommended(root, model, **settings):
    dataset = open_dataset(str(root / "d"))
    made = recommend.recommend(
        str(root / model), dataset, str(root / "r"), SERIAL, RecommendSettings(k=3, **settings)
    )
    return made, parts(root / "r")


def parts(folder):
    return [pq.read_table(path).to_pydict() for path in sorted(folder.glob("*.parquet"))]


def read_model(root, model):
    loaded = ALSModel.load(str(root / model))
    user, item = loaded.users.ids[3], loaded.items.ids[4]
    frames = [loaded.recommend(user, 3), loaded.similar(ITEMS, item, 3)]
    if loaded.settings.method == "als":
        frames.append(loaded.explain(user, item).head(3))
    return content(str(root / model)), [frame.to_json() for frame in frames]


def reported(root, model):
    path, dataset = str(root / model), open_dataset(str(root / "d"))
    errors = measure_errors(ALSModel.load(path), path, dataset, SERIAL)
    return errors.table.tolist(), errors.by_popularity()


def evaluated(root, model):
    return evaluate(
        str(root / model), open_dataset(str(root / "d")), SERIAL, EvaluateSettings(k=3)
    ).to_json()


def evaluated_alone(root, model):
    path = str(root / model)
    return evaluate(path, found_dataset(path), SERIAL, EvaluateSettings(k=3)).to_json()


def trained(root, initial=None):
    dataset = open_dataset(str(root / "d"))
    initial = None if initial is None else str(root / initial)
    train(dataset, str(root / "new"), small_settings(), SERIAL, initial_model=initial)
    return content(str(root / "new"))


def folded(root, model="m"):
    fold_in(str(root / "r.csv"), str(root / model), str(root / "new"), SERIAL, USERS)
    return content(str(root / "new"))


def job_again(root):
    its = job(root)
    run(its)
    rejected = pq.read_table(Path(its.dataset, "rejected.parquet")).to_pylist()
    evaluation = json.loads(Path(its.evaluation).read_text())
    return content(its.model), parts(Path(its.recommendations)), rejected, evaluation


READERS = {
    "d": [
        trained,
        lambda root: evaluated(root, "m"),
        lambda root: recommended(root, "m"),
        lambda root: read_model(root, "m"),
        lambda root: reported(root, "m"),
    ],
    "m": [
        lambda root: read_model(root, "m"),
        lambda root: trained(root, "m"),
        lambda root: evaluated(root, "m"),
        lambda root: recommended(root, "m", side="items"),
        lambda root: reported(root, "m"),
        folded,
    ],
    "g": [
        lambda root: read_model(root, "g"),
        lambda root: evaluated(root, "g"),
        lambda root: recommended(root, "g", std=True),
    ],
    "k": [
        lambda root: read_model(root, "k"),
        lambda root: evaluated(root, "k"),
        lambda root: folded(root, "k"),
    ],
    "kc": [lambda root: resumed(root, "kc", compact_training)],
    "c": [lambda root: resumed(root, "c", patient_training, PATIENT)],
    "gc": [lambda root: resumed(root, "gc", gibbs_training)],
    "f": [lambda root: read_model(root, "f")],
    "s": [lambda root: read_model(root, "s"), lambda root: evaluated_alone(root, "s")],
    "o": [job_again],
}


def flipped(place):
    def change(path):
        old = bytearray(path.read_bytes())
        if old:
            old[int(place * (len(old) - 1))] ^= 1 << (len(old) % 8)
        path.write_bytes(old)

    return change


def cut(part):
    def change(path):
        old = path.read_bytes()
        path.write_bytes(old[: int(part * len(old))])

    return change


def without_last_line(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def doubled(path):
    path.write_bytes(2 * path.read_bytes())


def swapped(path):
    """Swap a file with the one after it in its folder; one that is alone becomes one beside."""
    others = sorted(
        other for other in path.parent.glob(f"*{path.suffix}") if other.is_file() and other != path
    )
    mine = path.read_bytes()
    if others:
        other = next((other for other in others if other > path), others[0])
        path.write_bytes(other.read_bytes())
        other.write_bytes(mine)
        return
    beside = (other.read_bytes() for other in sorted(path.parent.parent.glob(f"*/{path.name}")))
    path.write_bytes(next((content for content in beside if content != mine), mine))


SLOW = [pytest.mark.slow]
FEW = [flipped(0.5), without_last_line, cut(0), doubled, swapped]
ALL = [
    *map(flipped, [0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1]),
    *map(cut, [0, 0.5, 0.99]),
    without_last_line,
    doubled,
    swapped,
]


def files_of(root, kind):
    """Return all files of an output that something reads back."""
    unread = {"fold_in.json", "result.json", ".in-use"}
    return sorted(
        path for path in (root / kind).rglob("*") if path.is_file() and path.name not in unread
    )


def outcome(read, root):
    """Return what a reader comes to, as a new process would; its error, or the results."""
    checksums._CHECKED.clear()
    recently_read_block.cache_clear()
    try:
        return read(root)
    except InputError as error:
        return error
    finally:
        for name in ("new", "resumed", "again", "r"):
            shutil.rmtree(root / name, ignore_errors=True)


def walk(root, kind, changes_of):
    """Change each file and see what its readers come to; return how often they said it."""
    pristine = root.parent / f"pristine-{kind}"
    shutil.copytree(root / kind, pristine, dirs_exist_ok=True)
    expected = [outcome(read, root) for read in READERS[kind]]
    assert not [one for one in expected if isinstance(one, Exception)]
    said, path_count = 0, 0
    for number, path in enumerate(files_of(root, kind)):
        for change in changes_of(number):
            change(path)
            path_count += 1
            for read, right in zip(READERS[kind], expected, strict=True):
                found = outcome(read, root)
                if isinstance(found, InputError):
                    said += 1
                    assert str(root) in str(found)  # the path of what is wrong
                else:
                    assert found == right, (path, change)
            shutil.rmtree(root / kind)
            shutil.copytree(pristine, root / kind)
    return said, path_count


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=SLOW if kind in {"kc", "gc", "k"} else []) for kind in READERS],
)
def test_a_changed_file_is_told_or_makes_no_difference(root, kind):
    said, n_changes = walk(root, kind, lambda number: [FEW[number % len(FEW)]])
    # A job makes what was changed anew.
    assert kind == "o" or said >= n_changes // 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_every_change_of_every_file_is_told_or_makes_no_difference(root, kind):
    said, n_changes = walk(root, kind, lambda number: ALL)
    print(f"{kind}: {n_changes} changes, {said} errors")


def forget_checksums(folder):
    """Make outputs what earlier releases wrote: without checksums of history and what is kept."""
    for path in folder.rglob("model.json"):
        value = json_files.read_manifest(str(path), format_version=1)
        del value["history_crc32"], value["kept"]
        json_files.write_manifest(str(path), value, format_version=1)
    for path in folder.rglob("manifest.json"):
        value = json_files.read_manifest(str(path), format_version=1)
        del value["rejected_crc32"]
        json_files.write_manifest(str(path), value, format_version=1)


@pytest.fixture
def old(root, tmp_path):
    shutil.copytree(root, tmp_path / "old", dirs_exist_ok=True)
    forget_checksums(tmp_path / "old")
    return tmp_path / "old"


def test_what_earlier_releases_wrote_can_be_used(root, old):
    assert open_dataset(str(old / "d")).rejected_crc32 is None
    for kind in ("d", "c", "gc", "m"):
        for read in READERS[kind]:
            assert outcome(read, old) == outcome(read, root)


@pytest.mark.parametrize(("kind", "training"), [("c", patient_training), ("gc", gibbs_training)])
@pytest.mark.parametrize("change", [cut(0), without_last_line])
def test_epochs_missing_from_an_earlier_releases_checkpoint(old, kind, training, change):
    """There is no checksum, but epochs can be counted."""
    change(sorted((old / kind).glob("epoch-*/history.jsonl"))[-1])
    found = outcome(lambda root: resumed(root, kind, training), old)
    assert "history.jsonl is damaged: it is without epoch 4" in str(found)


def test_the_sample_of_another_epoch_is_not_averaged(root, tmp_path):
    """Whole directories that change places have all their files in order."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    one, other = sorted((tmp_path / "gc").glob("sample-*"))[:2]
    one.rename(tmp_path / "spare")
    other.rename(one)
    (tmp_path / "spare").rename(other)
    found = outcome(lambda root: resumed(root, "gc", gibbs_training), tmp_path)
    assert "sample.json is damaged, or not the file that belongs there" in str(found)


def test_the_reduction_of_another_training_is_not_taken(root, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (mine,) = (tmp_path / "kc").glob("reduction-*")
    settings = small_settings(**GIBBS, seed=1)
    train_until(
        5,
        *(open_dataset(str(tmp_path / "d")), str(tmp_path / "none"), settings, SERIAL),
        checkpoints=checkpoints(tmp_path / "other"),
    )
    shutil.rmtree(mine)
    shutil.copytree(tmp_path / "other" / mine.name, mine)
    found = outcome(lambda root: resumed(root, "kc", compact_training), tmp_path)
    assert "reduction.json is damaged, or not the file that belongs there" in str(found)


def test_the_best_model_of_another_epoch_is_not_taken(root, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (best,) = (tmp_path / "c").glob("best-*")
    (newest,) = (tmp_path / "c").glob("epoch-00004")
    shutil.rmtree(best)
    shutil.copytree(newest, best)
    found = outcome(lambda root: resumed(root, "c", patient_training, PATIENT), tmp_path)
    assert re.search(
        r"best-0000\d holds something else \(no model.json of a best model", str(found)
    )


def places_in(value):
    """Yield every container in a JSON value with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places_in(value[key])


OTHERS = [None, "x", -1, 0.5, 10**400, [], {}, True, [[]], {"": 0}]
MANIFESTS = [
    pytest.param("d/manifest.json", marks=SLOW),
    "m/model.json",
    pytest.param("g/model.json", marks=SLOW),
    pytest.param("c/epoch-00004/model.json", marks=SLOW),
    pytest.param("gc/epoch-00004/model.json", marks=SLOW),
    "gc/sample-00003/sample.json",
    "o/recommendations/_recommendations.parquet",
]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_with_other_types_is_damaged(root, tmp_path, manifest):
    """One with the right checksum, by somebody who knows how; nothing "unexpected" is raised."""
    kind = manifest.split("/")[0]
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / manifest
    if kind == "gc":
        forget_checksums(tmp_path / kind)  # else any change of a sample is seen before it is read
    files = parquet_manifest if path.suffix == ".parquet" else json_files
    text = json.dumps(files.read_manifest(str(path), format_version=1))
    n_places = sum(1 for _ in places_in(json.loads(text)))
    damaged = 0
    for number in range(n_places):
        value = json.loads(text)
        container, key = list(places_in(value))[number]
        if number % 3 == 0 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = OTHERS[number % len(OTHERS)]
        if files is json_files:
            json_files.write_manifest(str(path), value, format_version=1)
        else:
            parquet_manifest.write_manifest(str(path), value, pa.schema([]), format_version=1)
        for read in READERS[kind][:2]:
            found = outcome(read, tmp_path)
            damaged += isinstance(found, InputError) and "is damaged: " in str(found)
    assert damaged > n_places // 2 or kind == "o"
