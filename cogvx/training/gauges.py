"""How fast the machine trains and what it needs: numbers that differ from one try to the next."""

import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from cogvx.objective.batch import Batches
from cogvx.preflight.flops import pass_flops
from cogvx.preflight.memory import GIB
from cogvx.recipe_sections import LoraConfig
from cogvx.shapes import VideoSize


@dataclass(frozen=True)
class Work:
    """What updates amount to. FLOPs are the model's own: nothing counts that is computed again."""

    samples: int
    tokens: int
    flops: float


class Gauges:
    """A clock over the updates between two log lines; what is aside of training stops it."""

    _started: float
    _aside: float

    def __init__(
        self, batches: Batches, lora: LoraConfig, *, processes: int, peak_flops: float | None
    ) -> None:
        """`peak_flops` is of one device a second in the base's precision, None where unknown."""
        self._batches = batches
        self._lora = lora
        self._processes = processes
        self._peak = peak_flops
        self._sizes: dict[VideoSize, Work] = {}
        self._start()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that is not training: measuring held-out clips, saving checkpoints."""
        started = time.monotonic()
        yield
        self._aside += time.monotonic() - started

    def read(self, updates: range, *, waited: float, memory_gib: float) -> dict[str, float]:
        """What the updates since the last reading took, and start again.

        Args:
            updates: Their numbers, counted from 0.
            waited: Most seconds that a process waited for its batches: the others waited for it.
            memory_gib: Most that a process needed.
        """
        seconds = max(time.monotonic() - self._started - self._aside, 1e-9)
        done = [self._work(update) for update in updates]
        self._start()
        speed = {
            "samples_per_second": sum(work.samples for work in done) / seconds,
            "tokens_per_second": sum(work.tokens for work in done) / seconds,
            "data_wait_share": min(1.0, waited / seconds),
            "memory_gib": memory_gib,
        }
        if self._peak is None:
            return speed
        flops = sum(work.flops for work in done) / seconds
        return {**speed, "mfu": flops / (self._peak * self._processes)}

    def _start(self) -> None:
        self._started = time.monotonic()
        self._aside = 0.0

    def _work(self, update: int) -> Work:
        """Of one update, whose clips are all of one size."""
        batches = self._batches
        size = batches.samples[batches.sampler.clip(update, 0)].size
        if size not in self._sizes:
            facts, clips = batches.objective.facts, batches.train.global_batch
            tokens = facts.tokens(size)
            flops = pass_flops(
                facts, self._lora, tokens=tokens, clips=clips, checkpointing="none"
            ).total
            self._sizes[size] = Work(samples=clips, tokens=tokens * clips, flops=flops)
        return self._sizes[size]


def peak_memory_gib(device: torch.device) -> float:
    """Most that this process has had at once: of tensors on a GPU, of main memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
