"""Work that runs ahead of its user on a few threads, in order, and never far."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Map in order, with at most `ahead` results begun or waiting while the caller uses one.

    Nothing ever waits for room in a queue, so nothing can be left hanging: closing the generator,
    which a caller must do, drops what was not begun and waits for what was.

    Args:
        read: Called on a thread of the pool; what it raises is raised here when its turn comes.
        items: Taken one by one, on the caller's thread, as there is room.
        threads: How many are read at once.
        ahead: At least `threads`, or some of them never work.
    """
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        try:
            for item in items:
                begun.append(pool.submit(read, item))
                if len(begun) > ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
