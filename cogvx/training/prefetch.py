"""Batches drawn ahead of the step that needs them, in one thread.

A batch is a function of its place in the run, so drawing ahead changes no bit, and a draw that
fails raises where its batch is asked for, never before.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import chain, islice
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from cogvx.objective.batch import Batch, Batches
from cogvx.recipe_sections import TrainConfig

Place = tuple[int, int]
_CPU = torch.device("cpu")
_STAY = ("timesteps_b",)  # drawn and looked up on the CPU


class Feed:
    """One process's batches, in the order of updates and of micro-batches within them.

    Use it in a `with` block: leaving it ends the thread, after the draw that it is in.
    """

    def __init__(self, batches: Batches, *, rank: int, device: torch.device, ahead: int) -> None:
        """`ahead` batches wait at most; 0 draws each one when it is asked for, without a thread."""
        self._batches = batches
        self._rank = rank
        self._device = device
        self._ahead = ahead
        self._waiting: deque[tuple[Place, Future[Batch]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches") if ahead else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def take(self, step: int, micro: int) -> Batch:
        """A micro-batch of update `step`, counted from 0, on the device.

        Asked in order, it is there already; asked out of order, what was drawn ahead is dropped.

        Raises:
            IntegrityError: A record is absent or damaged, or is not of its bucket's size.
        """
        place = (step, micro)
        if self._thread is None:
            return _moved(self._draw(place), self._device)
        if self._waiting and self._waiting[0][0] != place:
            self._forget()
        newest = self._waiting[-1][0] if self._waiting else None
        after = (
            _places(newest, self._batches.train)
            if newest
            else chain([place], _places(place, self._batches.train))
        )
        for next_place in islice(after, self._ahead + 1 - len(self._waiting)):
            self._waiting.append((next_place, self._thread.submit(self._draw, next_place)))
        return _moved(self._waiting.popleft()[1].result(), self._device)

    def close(self) -> None:
        """End the thread; nothing more is drawn ahead."""
        self._forget()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _forget(self) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def _draw(self, place: Place) -> Batch:
        step, micro = place
        batch = self._batches.draw(step, micro=micro, rank=self._rank, device=_CPU)
        return _pinned(batch) if self._device.type == "cuda" else batch


def _places(last: Place, train: TrainConfig) -> Iterator[Place]:
    """What comes after `last`, up to the end of the run."""
    step, micro = last
    yield from ((step, later) for later in range(micro + 1, train.accumulation))
    for later_step in range(step + 1, train.steps):
        yield from ((later_step, each) for each in range(train.accumulation))


def _pinned(batch: Batch) -> Batch:
    """In memory that the GPU reads by itself, while the CPU goes on."""
    return _each_tensor(batch, Tensor.pin_memory)


def _moved(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return _each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _each_tensor(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed = {
        name: change(value)
        for name, value in found.items()
        if isinstance(value, Tensor) and name not in _STAY
    }
    return replace(batch, **changed)
