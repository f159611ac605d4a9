import time

import pytest
from support.monitored import (
    OTHER,
    TASKS,
    WORKER,
    begin_segment,
    end,
    figures,
    started,
    train_an_epoch,
)

from dask_als.core.run_events import HalfEpochTimes, Progress


def test_times_of_a_half_epoch():
    state = started()
    train_an_epoch(state)
    users, items = state.half_epochs
    assert (users.epoch, users.side, users.start, users.seconds) == (1, "users", 100, 3)
    # Two threads have six seconds, of which they solve for 1 + 2 and wait for half a second.
    assert (users.solving, users.waiting, users.overhead) == pytest.approx((1.5, 0.25, 1.25))
    assert (users.slowest, users.mean) == (2, 1.5)
    assert (items.side, items.seconds, items.solving) == ("items", 1, 0.5)


def test_times_of_partitions():
    state = started()
    train_an_epoch(state)
    first, second = state.last_half_epochs[0].partitions
    assert (first.worker, first.ratings, first.solving, first.waiting) == (WORKER, 40, 1, 0)
    assert (second.worker, second.ratings, second.solving, second.waiting) == (OTHER, 60, 2, 0.5)
    assert second.start == 100.5


def test_tasks_of_other_trainings_and_kinds_are_ignored():
    state = started()
    startstops = [{"action": "compute", "start": 0.0, "stop": 1.0}]
    for key in (
        "solve-users-1-0-ffff0000-3",
        f"read-users-1-{TASKS}-3",
        f"test-1-0-{TASKS}-4",
        f"figures-1-{TASKS}-5",
        "solve-users-1-0",
    ):
        state.task_ended(key, WORKER, startstops, dict)
    assert state.progress() is None
    assert state.version == (0, 0, False)


def test_progress_of_an_epoch():
    state = started()
    end(state, "solve-users-3-1", WORKER, compute=(100, 101))
    assert state.progress() == Progress(3, "users", half=0, done=1, total=2)
    assert state.progress().epochs == 2.25
    end(state, "chunk-users-3-0", WORKER, compute=(101, 101.5))
    assert state.progress().done == 1
    end(state, "replica-users-3-0", WORKER, compute=(101.5, 102))
    assert state.progress() == Progress(3, "items", half=1, done=0, total=1)
    end(state, "solve-items-3-0", WORKER, compute=(102, 103))
    assert state.progress() == Progress(4, "users", half=0, done=0, total=2)


def test_before_the_first_and_after_the_last_half_epoch_there_is_no_progress():
    state = started()
    assert state.progress() is None
    train_an_epoch(state, epoch=10)
    assert state.progress() is None


def test_the_second_half_of_an_epoch_that_solves_items_first():
    state = started(settings={"epochs": 10, "first": "items"})
    end(state, "solve-users-1-0", WORKER, compute=(100, 101))
    assert state.progress().half == 1


def test_half_epochs_are_reported_once_and_survive_json():
    state = started()
    train_an_epoch(state)
    users, items = state.take_half_epochs()
    assert state.take_half_epochs() == []
    assert HalfEpochTimes.from_json(users.to_json()) == users
    assert items == state.half_epochs[-1]


def test_memory_does_not_grow_with_epochs():
    state = started()
    for epoch in range(1, 2001):
        train_an_epoch(state, epoch, start=100 + 4.0 * (epoch - 1))
    assert len(state.half_epochs) == 40
    assert len(state.take_half_epochs()) == 1000
    assert state.totals["users"].half_epochs == 2000
    assert state.totals["users"].solving == pytest.approx(3000)
    assert state._pending == {}


def test_reading_and_writing_between_segments_is_no_half_epoch():
    state = started()
    train_an_epoch(state)
    begin_segment(state, 1, (150.0, 200.0))
    train_an_epoch(state, 2, start=200.0)
    assert [half.seconds for half in state.half_epochs] == [3, 1, 3, 1]


def test_an_epoch_that_is_trained_again_replaces_those_after_it():
    state = started()
    for epoch in (1, 2, 3, 2):
        state.record(figures(epoch))
    assert [recorded.epoch for recorded in state.history] == [1, 2]
    assert state.epoch == 2


def test_time_left():
    state = started()
    assert state.seconds_left(0.0) is None
    for epoch in (1, 2):
        state.record(figures(epoch, seconds=float(epoch)))
    assert state.seconds_left(state._recorded) == pytest.approx(8 * 1.5)
    assert state.seconds_left(state._recorded + 2) == pytest.approx(10)
    assert state.seconds_left(state._recorded + 99) == 0


def test_ratings_per_second():
    state = started()
    assert state.ratings_per_second is None
    train_an_epoch(state)
    assert state.ratings_per_second == pytest.approx(200 / 4)


def test_a_side_of_one_partition_needs_no_replica_task():
    state = started()
    end(state, "solve-items-1-0", WORKER, compute=(100, 104))
    assert [half.side for half in state.half_epochs] == ["items"]


def test_half_epochs_that_lost_workers_interrupted_do_not_count():
    state = started()
    train_an_epoch(state)
    end(state, "solve-users-2-1", OTHER, compute=(104, 105))
    begin_segment(state, 0, (150.0, 200.0))
    assert state.progress() is None
    train_an_epoch(state, 1, start=200.0)
    assert [(half.epoch, half.seconds) for half in state.half_epochs] == [(1, 3), (1, 1)] * 2


def test_transfers_for_a_later_replica_count_in_the_next_half_epoch():
    state = started()
    end(state, "solve-users-1-0", WORKER, compute=(100, 102))
    end(state, "solve-users-1-1", OTHER, compute=(100, 102))
    end(state, "replica-users-1-0", WORKER, transfer=(102, 103), compute=(103, 104))
    end(state, "replica-users-1-1", OTHER, transfer=(102, 106), compute=(106, 107))
    end(state, "solve-items-1-0", WORKER, compute=(104, 108))
    users, items = state.half_epochs
    assert (users.seconds, users.solving, users.waiting) == (4, 2, 0.5)
    assert (items.seconds, items.solving, items.waiting) == (4, 2, 1)


def test_pulling_rows_from_other_homes_is_waiting():
    state = started()
    end(state, "pull-users-0-0", WORKER, compute=(99, 100))
    for number, worker in enumerate((WORKER, OTHER)):
        end(state, f"solve-users-1-{number}", worker, compute=(100, 102))
        end(state, f"offer-users-1-{number}", worker, compute=(102, 102))
    assert not state.half_epochs
    end(state, "pull-users-1-0", WORKER, compute=(102, 104))
    end(state, "pull-users-1-1", OTHER, compute=(102, 105))
    (users,) = state.half_epochs
    assert (users.start, users.seconds, users.solving, users.waiting) == (100, 4, 2, 1)


def test_clocks_that_are_set_back_lose_no_half_epoch():
    """Dask estimates worker clocks at each heartbeat, to within the latency of a message."""
    state = started()
    end(state, "solve-users-1-0", WORKER, compute=(100, 101))
    end(state, "solve-users-1-1", OTHER, compute=(100, 101))
    end(state, "replica-users-1-0", WORKER, compute=(101, 102))
    end(state, "solve-items-1-0", WORKER, compute=(101.5, 101.75))
    end(state, "solve-users-2-0", WORKER, compute=(101.75, 103))
    end(state, "solve-users-2-1", OTHER, compute=(101.75, 103))
    end(state, "replica-users-2-0", WORKER, compute=(102.5, 102.75))
    _, items, users = state.half_epochs
    assert (items.start, items.seconds, items.solving) == (101.5, 0.25, 0.125)
    assert (users.start, users.seconds, users.solving) == (101.75, 1.25, 1.25)


def test_watching_takes_a_small_part_of_an_epoch():
    """An epoch over 20 million ratings takes seconds; 10 ms are far less than 2 percent."""
    partitions = 20
    state = started(partitions={"users": (1,) * partitions, "items": (1,) * partitions})
    start = time.thread_time()
    for epoch in range(1, 51):
        for side in ("users", "items"):
            for number in range(partitions):
                end(state, f"solve-{side}-{epoch}-{number}", WORKER, compute=(100, 101))
            end(state, f"replica-{side}-{epoch}-0", WORKER, compute=(101, 102))
    assert state.totals["items"].half_epochs == 50
    assert (time.thread_time() - start) / 50 < 0.01
