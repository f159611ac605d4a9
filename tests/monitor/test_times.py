import random

import pytest

from dask_als.monitor.times import Interval, split_time

ONE, TWO = "one", "two"


def test_a_worker_that_solves_all_the_time():
    solving = [Interval(ONE, 0, 10)]
    assert split_time(0, 10, {ONE: 1}, solving=solving, waiting=[]) == (10, 0)


def test_a_thread_waits_only_while_it_does_not_solve():
    solving, waiting = [Interval(ONE, 4, 9)], [Interval(ONE, 1, 6)]
    assert split_time(0, 10, {ONE: 1}, solving=solving, waiting=waiting) == (5, 3)


def test_a_free_thread_waits_for_what_another_fetches():
    solving, waiting = [Interval(ONE, 0, 10)], [Interval(ONE, 0, 10)]
    assert split_time(0, 10, {ONE: 2}, solving=solving, waiting=waiting) == (5, 5)


def test_a_worker_without_work_counts():
    solving = [Interval(ONE, 0, 10)]
    assert split_time(0, 10, {ONE: 1, TWO: 3}, solving=solving, waiting=[]) == (2.5, 0)


def test_what_lies_outside_does_not_count():
    solving, waiting = [Interval(ONE, -5, 2)], [Interval(ONE, 8, 20)]
    assert split_time(0, 10, {ONE: 1}, solving=solving, waiting=waiting) == (2, 2)


def test_workers_that_are_gone_and_no_workers():
    solving = [Interval("gone", 0, 10)]
    assert split_time(0, 10, {ONE: 1}, solving=solving, waiting=[]) == (0, 0)
    assert split_time(0, 10, {}, solving=solving, waiting=[]) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_against_looking_at_every_moment(seed):
    draw = random.Random(seed)
    threads = {ONE: 1, TWO: 3}

    def intervals(most):
        starts = [(worker, draw.randrange(-3, 30)) for worker in threads for _ in range(most)]
        return [Interval(worker, start, start + draw.randrange(8)) for worker, start in starts]

    solving, waiting = intervals(4), intervals(3)
    solved = waited = 0
    for moment in range(30):
        for worker, n_threads in threads.items():
            on = [i for i in solving if i.worker == worker and i.start <= moment < i.stop]
            fetch = [i for i in waiting if i.worker == worker and i.start <= moment < i.stop]
            busy = min(n_threads, len(on))
            solved += busy
            waited += n_threads - busy if fetch else 0
    expected = (solved / 4, waited / 4)
    assert split_time(0, 30, threads, solving=solving, waiting=waiting) == pytest.approx(expected)
