"""Work that threads do ahead of whoever needs it, in order."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_order(tasks: Iterable[Callable[[], T]], *, threads: int, depth: int) -> Iterator[T]:
    """What the tasks return, in their order, at most `depth` of them done or begun before their turn.

    With one thread a task begins when the one before is done.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()


def prefetched(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """The items, which one thread takes from their iterator up to `depth` ahead."""
    made = iter(items)
    for one in in_order(itertools.repeat(lambda: list(itertools.islice(made, 1))), threads=1, depth=depth):
        if not one:
            return
        yield one[0]
