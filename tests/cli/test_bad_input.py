"""What a user can get wrong ends with exit code 2 and one clear line, and is never unexpected."""

import os

import pytest
from support.data import generated, write_csv
from support.kubernetes_objects import Namespace

from dask_als.cli.main import main

NO_NUMBERS = ("nan", "inf", "-inf", "-1", "0", "1e400", "x", "", "9" * 5000)
LONG = "x" * 300


@pytest.fixture(scope="module")
def made(tmp_path_factory, client):
    """A folder with ratings, a dataset, a model, and things that are not what they should be."""
    folder = tmp_path_factory.mktemp("made")
    write_csv(folder / "ratings.csv", generated(20, 30, 300))
    cluster = ["--cluster", client.scheduler.address]
    main(["prepare", str(folder / "ratings.csv"), str(folder / "d"), *cluster])
    main(["train", str(folder / "d"), str(folder / "m"), "--rank=2", "--epochs=1", *cluster])
    (folder / "folder.csv").mkdir()
    (folder / "file").write_text("x")
    (folder / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "broken.csv").symlink_to("nowhere")
    (folder / "circle.csv").symlink_to("circle.csv")
    (folder / "sealed.csv").write_text("userId,movieId,rating\n1,1,1\n")
    (folder / "sealed.csv").chmod(0)
    return folder


@pytest.fixture
def refused(made, client, capfd, monkeypatch):
    """Run a command that must end with exit code 2 and one line; return it."""
    monkeypatch.chdir(made)

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        _, err = capfd.readouterr()
        assert end.value.code == 2, err
        assert err.startswith("dask-als: "), err
        assert err.count("\n") == 1, err
        assert "unexpected" not in err, err
        assert err.isascii() or err[:-1].isprintable()
        return err

    return run


@pytest.fixture
def address(client):
    return client.scheduler.address


PATHS = (
    "missing.csv",
    "folder.csv",
    "file",
    "file/below.csv",
    "bytes.csv",
    "broken.csv",
    "circle.csv",
    f"{LONG}.csv",
    f"{LONG}/{LONG}",
    "a\0b.csv",
    "",
    "nosuch://x/y.csv",
    "http://[::1",
    "s3://",
    "[",
    "a\udcffb.csv",
)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=ascii)
@pytest.mark.parametrize(
    "command",
    [
        ("prepare", "{}", "out"),
        ("prepare", "ratings.csv", "out", "--titles", "{}"),
        ("train", "{}", "out"),
        ("train", "d", "out", "--init-from", "{}"),
        ("evaluate", "{}", "d"),
        ("evaluate", "m", "{}"),
        ("evaluate", "m", "--on", "{}"),
        ("predict", "{}", "ratings.csv", "--out", "out.csv"),
        ("predict", "m", "{}", "--out", "out.csv"),
        ("export", "{}", "d", "--index", "out"),
        ("export", "m", "{}", "--index", "out"),
        ("recommend", "{}", "d", "--to", "1"),
        ("recommend", "m", "{}", "--to", "1"),
        ("recommend", "m", "d", "--to", "1", "--include", "{}"),
        ("recommend", "m", "d", "--out", "out", "--to-file", "{}"),
        ("similar", "{}", "1"),
        ("explain", "{}", "1", "1"),
        ("fold-in", "{}", "m", "--out", "out"),
        ("fold-in", "ratings.csv", "{}", "--out", "out"),
        ("plan", "{}"),
        ("tune", "{}", "out.toml"),
        ("report", "{}"),
        ("run", "{}"),
        ("submit", "{}", "--dry-run"),
    ],
    ids=" ".join,
)
def test_paths_of_input(refused, address, command, path):
    if path == "" and command[:2] == ("recommend", "m"):
        pytest.skip("without a dataset it is the model's own")
    arguments = [path if argument == "{}" else argument for argument in command]
    if command[0] not in ("similar", "explain", "plan", "run", "submit", "export"):
        arguments += ["--cluster", address]
    refused(*arguments)
    assert not os.path.exists("out")
    assert not os.path.exists("out.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
@pytest.mark.parametrize("command", [("prepare", "sealed.csv", "out"), ("run", "sealed.csv")])
def test_unreadable_files(refused, command):
    assert "Permission denied" in refused(*command)


@pytest.mark.parametrize("path", ["file/below", f"{LONG}", f"a/{LONG}/b", "a\0b", ""], ids=ascii)
@pytest.mark.parametrize(
    "command",
    [
        ("prepare", "ratings.csv", "{}"),
        ("train", "d", "{}", "--rank=2", "--epochs=1"),
        ("recommend", "m", "d", "--out", "{}"),
        ("recommend", "m", "d", "--out", "{}.csv"),
        ("predict", "m", "ratings.csv", "--out", "{}"),
        ("predict", "m", "ratings.csv", "--out", "{}.csv"),
        ("export", "m", "d", "--index", "{}"),
        ("fold-in", "ratings.csv", "m", "--out", "{}"),
    ],
    ids=" ".join,
)
def test_paths_of_output(refused, address, command, path):
    if path == "" and command[-1] == "{}.csv":
        pytest.skip(".csv is a name")
    arguments = [argument.replace("{}", path) for argument in command]
    if command[0] != "export":
        arguments += ["--cluster", address]
    before = {*os.listdir(), "a"}
    refused(*arguments)
    assert {*os.listdir(), "a"} == before


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("recommend", "m", "--out", "folder.csv"), "folder.csv"),
        (("predict", "m", "ratings.csv", "--out", "folder.csv"), "folder.csv"),
        (("predict", "m", "ratings.csv", "--out", "ratings.csv"), "ratings.csv"),
        (("predict", "m", "ratings.csv", "--out", "out.txt"), ".parquet"),
        (("predict", "m", "d/manifest.json", "--out", "out.csv"), "d/manifest.json"),
        (("export", "m", "d", "--index", "d"), "d exists already"),
        (("export", "m", "d", "--index", "m", "--overwrite"), "m is an input"),
    ],
)
def test_outputs_that_hold_something_else(refused, made, address, command, told):
    cluster = [] if command[0] == "export" else ["--cluster", address]
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    assert told in refused(*command, *cluster)
    after = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("name", ["nothing", "", "a,b", "a!=b", "\x1b[2J", "=", LONG])
def test_schedules_that_are_not_there(refused, monkeypatch, name):
    Namespace(monkeypatch)
    assert "there is no schedule " in refused("launch", name, "--namespace=n")


@pytest.mark.slow
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: value[:9] or "empty")
@pytest.mark.parametrize(
    "command",
    [
        ("train", "d", "out", "--rank"),
        ("train", "d", "out", "--epochs"),
        ("train", "d", "out", "--residual-precision"),
        ("train", "d", "out", "--confidence"),
        ("train", "d", "out", "--stop-when-flat"),
        ("train", "d", "out", "--patience"),
        ("train", "d", "out", "--checkpoint", "c", "--checkpoint-every"),
        ("train", "d", "out", "--checkpoint", "c", "--checkpoint-minutes"),
        ("train", "d", "out", "--checkpoint", "c", "--checkpoint-keep"),
        ("train", "d", "out", "--method", "gibbs", "--samples"),
        ("train", "d", "out", "--worker-timeout"),
        ("train", "d", "out", "--workers"),
        ("train", "d", "out", "--threads"),
        ("prepare", "ratings.csv", "out", "--partitions"),
        ("fold-in", "ratings.csv", "m", "--out", "out", "--partitions"),
        ("evaluate", "m", "d", "-k"),
        ("recommend", "m", "d", "--out", "out", "-k"),
        ("recommend", "m", "d", "--to", "1", "-k"),
        ("recommend", "m", "d", "--out", "out", "--rows-at-once"),
        ("export", "m", "d", "--index", "out", "-k"),
        ("export", "m", "d", "--index", "out", "--measured-users"),
        ("export", "m", "d", "--index", "out", "--connectivity"),
        ("export", "m", "d", "--index", "out", "--expansion"),
        ("similar", "m", "1", "-k"),
        ("explain", "m", "1", "1", "-k"),
        ("generate", "out", "--users"),
        ("generate", "out", "--items"),
        ("generate", "out", "--ratings"),
        ("generate", "out", "--rank"),
        ("tune", "d", "out.toml", "--trials"),
        ("tune", "d", "out.toml", "--minutes"),
        ("tune", "d", "out.toml", "--folds"),
        ("tune", "d", "out.toml", "--at-once"),
    ],
    ids=" ".join,
)
def test_numbers_out_of_range(refused, command, value):
    refused(*command, value)
    assert not os.path.exists("out")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400", "x"])
@pytest.mark.parametrize(
    "command",
    [
        ("train", "d", "out", "--bias-regularization"),
        ("train", "d", "out", "--user-factor-regularization"),
        ("train", "d", "out", "--frequency-exponent"),
        ("train", "d", "out", "--seed"),
        ("prepare", "ratings.csv", "out", "--test-fraction"),
        ("prepare", "ratings.csv", "out", "--seed"),
        ("similar", "m", "1", "--least-ratings"),
        ("generate", "out", "--noise"),
        ("generate", "out", "--seed"),
        ("tune", "d", "out.toml", "--seed"),
    ],
    ids=" ".join,
)
def test_numbers_that_may_be_zero(refused, command, value):
    refused(*command, value)


@pytest.mark.parametrize(
    "options",
    [
        ("--cluster", "nonsense"),
        ("--cluster", ""),
        ("--cluster", "tcp://"),
        ("--cluster", "tcp://127.0.0.1:99999999"),
        ("--cluster", "tcp://a\x1bb:1"),
        ("--cluster", "tcp://[::1"),
        ("--cluster", "kubernetes", "--pods", ""),
        ("--cluster", "kubernetes", "--pods", "="),
        ("--cluster", "kubernetes", "--pods", "workers=-1"),
        ("--cluster", "kubernetes", "--pods", "workers=0"),
        ("--cluster", "kubernetes", "--pods", "workers=²"),
        ("--cluster", "kubernetes", "--pods", "workers=" + "9" * 5000),
        ("--cluster", "kubernetes", "--pods", "memory=\x1b"),
        ("--cluster", "kubernetes", "--pods", "nonsense=1"),
        ("--memory", "nonsense"),
        ("--memory", "-1"),
        ("--memory", "nan"),
        ("--timeout", "nonsense"),
        ("--timeout", "-1s"),
        ("--timeout", "nan"),
        ("--dashboard", "nonsense:x"),
        ("--tls-ca", "missing"),
        ("--trace", "a\0b"),
        ("--trace", "folder.csv"),
        ("--trace", "file/below"),
        ("--performance-report", "folder.csv"),
        ("--log-format", "\x1b"),
        ("--\x1b[2J",),
    ],
    ids=ascii,
)
def test_options_of_clusters(refused, options):
    refused("train", "d", "out", "--rank=2", "--epochs=1", *options)
    assert not os.path.exists("out")


GOOD = 'output = "o"\nsteps = ["prepare"]\n[source]\npath = "ratings.csv"\n'


@pytest.mark.parametrize(
    "text",
    [
        "x=" + "[" * 100_000,
        "x=" + "[" * 300 + "]" * 300,
        "x=" + "{a=" * 100_000,
        "a." * 500 + "a=1",
        "rank=" + "9" * 6_000,
        "rank=0x" + "f" * 6_000,
        GOOD + "[train]\nrank=0x" + "f" * 6_000,
        GOOD + "[train]\nresidual_precision=0x" + "f" * 600,
        GOOD + "[train]\nresidual_precision=nan",
        GOOD + "[train]\nresidual_precision=true",
        GOOD + "[train]\nrank=1.5",
        GOOD + "[train]\nrank=1979-05-27",
        GOOD + "[train]\ndtype=[[1]]",
        GOOD + "[train]\nrank=" + "[" * 200 + "]" * 200,
        GOOD + "[evaluate]\nk=-1",
        GOOD + "[schedule]\nepochs=3",
        GOOD + "[schedule]\ncron='* * * *'",
        GOOD + "[schedule]\ncron='61 * * * *'",
        GOOD + "[schedule]\ncron='* * * * *'\nkeep=0",
        GOOD + "[cluster.local]\nworkers=-1",
        GOOD + "[cluster.local]\nmemory=1",
        GOOD + "[cluster.kubernetes]\nworkers='x'",
        GOOD + "[cluster.kubernetes.environment]\nA=1",
        GOOD.replace('"o"', '"o\\u0000x"'),
        GOOD.replace('"o"', f'"{LONG}"'),
        GOOD.replace('"o"', '"file/below"'),
        GOOD.replace('"o"', '"file"'),
        GOOD.replace('"o"', "1"),
        GOOD.replace('"ratings.csv"', '"a\\u0000b"'),
        GOOD.replace('"ratings.csv"', "{}"),
        GOOD.replace('["prepare"]', '"prepare"'),
        GOOD.replace('["prepare"]', '[["prepare"]]'),
        "name = '\x1b[2J'\n" + GOOD,
        "name = 'a\nb'\n" + GOOD,
        "\0",
        "= 1",
    ],
    ids=lambda text: ascii(text[-40:]),
)
def test_job_files(refused, made, text):
    (made / "job.toml").write_text(text)
    refused("run", "job.toml")


def test_job_files_that_are_not_text(refused, made):
    (made / "job.toml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused("run", "job.toml")


@pytest.mark.parametrize(
    "change",
    ["train.rank=" + "9" * 6_000, "train.rank=" + "[" * 100_000, "a." * 2_000 + "a=1", "=", ""],
    ids=lambda change: change[:12] or "empty",
)
def test_changes_of_job_files(refused, made, change):
    (made / "job.toml").write_text(GOOD)
    refused("run", "job.toml", "--set", change)
