"""Prefetching threads: results in order, a bounded depth, and no thread left when the consumer stops."""

import threading
import time
from functools import partial

import pytest

from jaxkd.data.prefetch import in_order, prefetched


def slow(number):
    time.sleep(0.02 * (number % 3))
    return number


@pytest.mark.parametrize(("threads", "depth"), [(1, 1), (3, 2), (2, 50)])
def test_results_come_in_order(threads, depth):
    tasks = (partial(slow, number) for number in range(9))
    assert list(in_order(tasks, threads=threads, depth=depth)) == list(range(9))
    assert list(prefetched(map(slow, range(9)), depth=depth)) == list(range(9))


def test_no_more_is_taken_than_the_depth():
    taken = []

    def tasks():
        for number in range(20):
            taken.append(number)
            yield partial(slow, number)

    results = in_order(tasks(), threads=2, depth=3)
    for number in range(5):
        assert next(results) == number
        assert len(taken) <= number + 4
    before = threading.active_count()
    results.close()
    assert threading.active_count() <= before - 1 and len(taken) <= 8


def test_what_a_task_raises_is_raised_in_its_turn():
    def broken():
        raise KeyError("no")

    results = in_order([partial(slow, 1), broken, partial(slow, 2)], threads=2, depth=3)
    assert next(results) == 1
    with pytest.raises(KeyError):
        next(results)


def test_no_items():
    assert list(prefetched([], depth=2)) == list(in_order([], threads=1, depth=2)) == []
