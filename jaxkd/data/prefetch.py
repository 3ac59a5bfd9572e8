"""Results of threads that work ahead of their consumer, in order."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_order(tasks: Iterable[Callable[[], T]], *, threads: int, depth: int) -> Iterator[T]:
    """The results of the tasks, in order; at most `depth` tasks are started ahead of the consumer.

    With one thread, a task starts when the one before it is done.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(task))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def prefetched(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """The items; one thread takes them from their iterator, up to `depth` ahead."""
    iterator = iter(items)
    for taken in in_order(itertools.repeat(lambda: list(itertools.islice(iterator, 1))), threads=1, depth=depth):
        if not taken:
            return
        yield taken[0]
