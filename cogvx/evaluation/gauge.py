"""What measures the videos of an arm beyond their own frames: other arms, clips, networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cogvx.evaluation.documents import Neighbour, Reading
from cogvx.evaluation.suite import PromptConfig
from cogvx.mp4 import Mp4, read_mp4


@dataclass(frozen=True)
class Seen:
    """One video of an arm. `sha256` is of its file, and names what is kept of it."""

    prompt: PromptConfig
    seed: int
    path: Path
    sha256: str
    decode: Callable[[Path], Mp4] = read_mp4

    @cached_property
    def video(self) -> Mp4:
        """Its frames, decoded once and when first asked for.

        A gauge that keeps what it found, under `sha256`, need not ask the next time.

        Raises:
            DataError: The file cannot be decoded at all.
        """
        return self.decode(self.path)


@dataclass(frozen=True)
class Findings:
    """What an arm's videos tell together."""

    readings: tuple[Reading, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


class Gauge(Protocol):
    """Meets the videos of one arm one by one, in the suite's order, and then sums up."""

    def look(self, seen: Seen) -> Mapping[str, float]:
        """Numbers of this one video, by metric; none where the metric is not for its prompt."""
        ...

    def findings(self) -> Findings:
        """What all videos tell together, after the last one."""
        ...
