"""A manifest in numbers: how much there is, in which sizes, how bright, how lively, how long told.

Clips count once, however many windows they give; mirrored windows are counted, but add no seconds.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from cogvx.data.manifest import Clip, Manifest

_DECIMALS = 3


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Document):
    """Where the values of something lie."""

    low: float
    median: float
    mean: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """The spread of the values, None if there are none."""
        if not values:
            return None
        found = (min(values), np.median(values), np.mean(values), max(values))
        low, median, mean, high = (round(float(value), _DECIMALS) for value in found)
        return cls(low=low, median=median, mean=mean, high=high)


class Part(_Document):
    """Some of the clips: all, or those of one split. `seconds` is what training sees of them."""

    clips: int
    windows: int
    seconds: float


class Bucket(_Document):
    """The windows of one size, "FxHxW"."""

    size: str
    clips: int
    windows: int


class Rate(_Document):
    """The clips of one frame rate, as their containers say it."""

    fps: float
    clips: int


class DatasetStatistics(_Document):
    """What a manifest holds.

    `source_seconds` is the length of the clips, windows or not. `tokens`, `motion` and `brightness`
    are over clips, and None where nobody counted or looked; `too_long` counts the captions of more
    than `token_limit` tokens, of which the model reads no more than that.
    """

    manifest: str
    all: Part
    train: Part
    heldout: Part
    mirrored: int
    source_seconds: float
    buckets: tuple[Bucket, ...]
    rates: tuple[Rate, ...]
    token_limit: int
    too_long: int
    tokens: Spread | None
    motion: Spread | None
    brightness: Spread | None
    rejected: dict[str, int]


def describe_manifest(manifest: Manifest, *, fps: int, token_limit: int) -> DatasetStatistics:
    """Count what a manifest holds.

    Args:
        manifest: With or without counted tokens and looks.
        fps: Rate of the windows, in frames a second.
        token_limit: How many tokens of a caption the model reads.
    """
    clips = each_clip(manifest)
    return DatasetStatistics(
        manifest=manifest.content_digest(),
        all=_part(manifest.clips, fps),
        train=_part(manifest.train, fps),
        heldout=_part(manifest.heldout, fps),
        mirrored=sum(clip.flip for clip in manifest.clips),
        source_seconds=round(sum(clip.facts.seconds for clip in clips), _DECIMALS),
        buckets=_buckets(manifest),
        rates=_rates(clips),
        token_limit=token_limit,
        too_long=sum(tokens > token_limit for tokens in token_counts(clips)),
        tokens=Spread.of(token_counts(clips)),
        motion=Spread.of(motions(clips)),
        brightness=Spread.of(brightnesses(clips)),
        rejected=manifest.rejected_counts(),
    )


def each_clip(manifest: Manifest) -> tuple[Clip, ...]:
    """The first window of every clip, in the order of the manifest."""
    first: dict[str, Clip] = {}
    for clip in manifest.clips:
        first.setdefault(clip.key, clip)
    return tuple(first.values())


def token_counts(clips: Iterable[Clip]) -> list[int]:
    """Tokens of the captions that were counted."""
    return [clip.tokens for clip in clips if clip.tokens is not None]


def motions(clips: Iterable[Clip]) -> list[float]:
    """Motion of the clips that were looked at, 0 to 255."""
    return [clip.facts.look.motion for clip in clips if clip.facts.look is not None]


def brightnesses(clips: Iterable[Clip]) -> list[float]:
    """Brightness of the clips that were looked at, 0 to 255."""
    return [clip.facts.look.brightness for clip in clips if clip.facts.look is not None]


def _part(windows: Sequence[Clip], fps: int) -> Part:
    seconds = sum(clip.size.frames for clip in windows if not clip.flip) / fps
    return Part(
        clips=len({clip.key for clip in windows}),
        windows=len(windows),
        seconds=round(seconds, _DECIMALS),
    )


def _buckets(manifest: Manifest) -> tuple[Bucket, ...]:
    """By size, the fullest first."""
    windows = Counter(str(clip.size) for clip in manifest.clips)
    clips = Counter(str(clip.size) for clip in each_clip(manifest))
    ordered = sorted(windows.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Bucket(size=size, clips=clips[size], windows=count) for size, count in ordered)


def _rates(clips: Sequence[Clip]) -> tuple[Rate, ...]:
    """By rate to two decimals, the commonest first."""
    counts = Counter(round(clip.facts.fps, 2) for clip in clips)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Rate(fps=fps, clips=count) for fps, count in ordered)
