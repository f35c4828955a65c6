"""Order is kept, the distance is bounded, and nothing is left running."""

import threading
from contextlib import closing

import pytest

from cogvx.encoding.read_ahead import read_ahead


def running() -> int:
    return sum(thread.name.startswith("read-ahead") for thread in threading.enumerate())


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 4), (4, 8)])
@pytest.mark.parametrize("count", [0, 1, 5, 50])
def test_results_come_in_order_and_all_of_them(threads: int, ahead: int, count: int) -> None:
    gate = threading.Event()

    def read(number: int) -> int:
        gate.wait(0.001 * (number % 3))  # the later ones are often done first
        return number * number

    with closing(read_ahead(read, range(count), threads=threads, ahead=ahead)) as results:
        assert list(results) == [number * number for number in range(count)]
    assert running() == 0


def test_no_more_is_taken_than_the_distance_allows() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(100):
            taken.append(number)
            yield number

    with closing(read_ahead(lambda number: number, items(), threads=2, ahead=3)) as results:
        for used, _ in enumerate(results):
            assert len(taken) == min(used + 1 + 3, 100)


def test_reading_goes_on_while_a_result_is_used() -> None:
    both = threading.Barrier(3, timeout=10)

    def read(number: int) -> int:
        if number in (1, 2):
            both.wait()  # passes only if both are read while the caller is here too
        return number

    with closing(read_ahead(read, range(4), threads=2, ahead=3)) as results:
        assert next(results) == 0
        both.wait()
        assert list(results) == [1, 2, 3]


def test_an_error_comes_in_its_turn_and_ends_the_threads() -> None:
    def read(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    with closing(read_ahead(read, range(1000), threads=2, ahead=4)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="the third"):
            next(results)
    assert running() == 0


def test_closing_early_drops_what_was_not_begun() -> None:
    read: list[int] = []
    with closing(read_ahead(read.append, range(1000), threads=1, ahead=6)) as results:
        next(results)
    assert len(read) <= 7
    assert running() == 0
