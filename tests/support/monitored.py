"""What the tests of watching share: a training as the scheduler would see it."""

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import RunInfo
from dask_als.monitor.run_state import RunState
from dask_als.settings.training import TrainSettings

TASKS = "abcd1234"
WORKER, OTHER = "tcp://one:1", "tcp://two:2"
THREADS = {WORKER: 1, OTHER: 1}


def info(**changes):
    """Return two partitions of users and one of items, 10 epochs at most."""
    values = {
        "model": "/models/mine",
        "dataset": "s3://bucket/movies",
        "n_users": 7,
        "n_items": 3,
        "n_ratings": 100,
        "n_test": 9,
        "partitions": {"users": (40, 60), "items": (100,)},
        "settings": TrainSettings(rank=4, epochs=10).to_json(),
    }
    return RunInfo(**{**values, **changes})


def figures(epoch, test_rmse=0.9, seconds=2.0):
    """Return figures of an epoch."""
    return EpochFigures(epoch, -1000.0 / epoch, 0.8 / epoch, test_rmse, seconds)


def end(state, key, worker, *, compute, transfer=None):
    """Tell of the end of a task, as Dask does."""
    actions = {"transfer": transfer, "compute": compute}
    startstops = [
        {"action": action, "start": times[0], "stop": times[1]}
        for action, times in actions.items()
        if times
    ]
    state.task_ended(f"{key}-{TASKS}-17", worker, startstops, lambda: THREADS)


def train_an_epoch(state, epoch=1, start=100.0):
    """Tell of an epoch that takes four seconds: three of users, one of items."""
    end(state, f"solve-users-{epoch}-0", WORKER, compute=(start, start + 1))
    end(
        state,
        f"solve-users-{epoch}-1",
        OTHER,
        transfer=(start, start + 0.5),
        compute=(start + 0.5, start + 2.5),
    )
    end(state, f"replica-users-{epoch}-0", WORKER, compute=(start + 2.5, start + 3))
    end(state, f"replica-users-{epoch}-1", OTHER, compute=(start + 2.5, start + 3.2))
    end(state, f"solve-items-{epoch}-0", WORKER, compute=(start + 3, start + 4))


def begin_segment(state, epoch, compute):
    """Tell of reading, or making, what a segment starts from."""
    for side in ("users", "items"):
        end(state, f"start-{side}-0", WORKER, compute=(compute[0] - 1, compute[0]))
        end(state, f"replica-{side}-{epoch}-0", WORKER, compute=compute)
        end(state, f"replica-{side}-{epoch}-1", OTHER, compute=compute)


def started(**changes):
    """Return the state of a training whose first factors are there at second 100."""
    state = RunState(info(**changes), TASKS)
    begin_segment(state, 0, (99.0, 100.0))
    return state
