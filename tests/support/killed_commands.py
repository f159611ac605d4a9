"""Runs what commands write, each in a process that is forked off, which may be killed on its way.

Without a cluster: its processes are no part of what is written, and take long to start.
"""

import json
import os
import signal
import sys
import threading
import traceback

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.data.synthetic import GenerateSettings, write_ratings
from dask_als.jobs.job_file import job_from_toml
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.jobs.tuned_job import tuned_job, write_job
from dask_als.model.fold_in import fold_in
from dask_als.model.recommend import recommend
from dask_als.report.page import write_report
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import RecommendSettings
from dask_als.settings.training import CheckpointSettings, TrainSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
PREPARE = PrepareSettings(test_fraction=0.2, partitions=1)
TRAIN = TrainSettings(rank=2, epochs=2)


def write_dataset(source, folder):
    prepare(source, f"{folder}/dataset", SERIAL, settings=PREPARE, overwrite=True)


def write_model(_, folder):
    checkpoints = CheckpointSettings(directory=f"{folder}/checkpoints", every=1)
    dataset = open_dataset(f"{folder}/dataset")
    train(dataset, f"{folder}/model", TRAIN, SERIAL, checkpoints=checkpoints, overwrite=True)


def write_folded(source, folder):
    fold_in(source, f"{folder}/model", f"{folder}/folded", SERIAL, USERS, overwrite=True)


def write_recommendations(_, folder):
    dataset, path = open_dataset(f"{folder}/dataset"), f"{folder}/recommendations"
    settings = RecommendSettings(k=2)
    recommend(f"{folder}/model", dataset, path, SERIAL, settings, overwrite=True)


def write_page(_, folder):
    write_report(f"{folder}/report.html", "<html><head></head></html>")


def write_tuned_job(_, folder):
    job = tuned_job(open_dataset(f"{folder}/dataset"), TRAIN, f"{folder}/tuned.toml")
    write_job(f"{folder}/tuned.toml", job, "measured")


def write_all_of_a_job(source, folder):
    job = job_from_toml(f"""
        name = "j"
        output = "{folder}/o"
        source.path = "{source}"
        prepare = {{ test_fraction = 0.2, partitions = 1 }}
        train = {{ rank = 2, epochs = 2 }}
        checkpoint = {{ every = 1 }}
    """)
    with recorded(job) as result:
        run_job(job, SERIAL, result)


def write_generated(_, folder):
    path = f"{folder}/generated"
    try:
        write_ratings(GenerateSettings(n_users=9, n_items=9, n_ratings=30), path)
    except ValueError:  # It is there already.
        assert os.path.isdir(path)


COMMANDS = {
    "prepare": write_dataset,
    "train": write_model,
    "fold-in": write_folded,
    "recommend": write_recommendations,
    "report": write_page,
    "tune": write_tuned_job,
    "run": write_all_of_a_job,
    "generate": write_generated,
}


def run_forked(command, source, folder, *, kill_after=None):
    """Run a command in a child process; return the exit code, negative after a signal.

    Parameters
    ----------
    kill_after : float, optional
        Seconds after which the child is killed.
    """
    child = os.fork()
    if child == 0:
        try:
            COMMANDS[command](source, folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        # The child is a zombie until it is waited for: no other process can have its number.
        timer = threading.Timer(kill_after, os.kill, (child, signal.SIGKILL))
        timer.start()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        timer.cancel()
        timer.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    source, folders, kill_after = (json.loads(word) for word in sys.argv[1:])
    codes = {
        name: run_forked(name, source, folder, kill_after=kill_after.get(name))
        for name, folder in folders.items()
    }
    os.writev(1, [json.dumps(codes).encode()])  # Not a call that children are killed at.


if __name__ == "__main__":
    main()
