"""Which windows of a clip are used: at which of the recipe's sizes, from which frames, cut where.

Nothing is invented for a clip: no frame is repeated to fill it up or to reach the rate, and no
pixel is made up by enlarging.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from cogvx.data.manifest import Clip, ClipFacts, Fault
from cogvx.data.timing import frames_needed
from cogvx.digest import sha256_bytes
from cogvx.recipe_sections import VideoConfig
from cogvx.shapes import CENTRE, CropRule, VideoSize

# A source this much slower than the target repeats one frame in twenty, which nobody sees; 24 fps
# brought to 25 is the usual case.
_SLOWEST = 0.95

# Shares of the picture closer than one step count as equal, so that a hair of the picture does not
# outweigh a longer or larger window.
_KEPT_STEPS = 20

_RANDOM = "random-"

# Mirroring would make the caption false. Other meanings of the words cost only a mirrored window.
_SIDES = re.compile(r"\b(left|right)|clockwise", re.IGNORECASE)


@dataclass(frozen=True)
class Bucket:
    """A size that a clip can give, and the share of its picture that the cut keeps."""

    size: VideoSize
    kept: float


def best_bucket(facts: ClipFacts, video: VideoConfig) -> Bucket | Fault:
    """The size that keeps most of the picture, in steps of 5 %; then the longest, then the largest.

    Of sizes that are equal in all this the first one in the recipe is taken. Faults:

    too_slow    the source has fewer frames a second: repeating them would teach stutter
    too_short   it ends before the window of any size does
    too_small   it covers none of the sizes that it is long enough for
    """
    if facts.fps < _SLOWEST * video.fps:
        detail = f"{facts.fps:.4g} fps is slower than video.fps = {video.fps}; frames would repeat"
        return Fault(reason="too_slow", detail=detail)
    long_enough = [size for size in video.sizes if facts.frames >= _needed(facts, size, video)]
    if not long_enough:
        shortest = min(video.sizes, key=lambda size: size.frames)
        needed = _needed(facts, shortest, video)
        detail = (
            f"{facts.frames} frames at {facts.fps:.4g} fps are fewer than the {needed} behind"
            f" {shortest} at video.fps = {video.fps}"
        )
        return Fault(reason="too_short", detail=detail)
    covered = [
        size for size in long_enough if facts.height >= size.height and facts.width >= size.width
    ]
    if not covered:
        smallest = min(long_enough, key=lambda size: size.pixels)
        detail = (
            f"{facts.height}x{facts.width} does not cover {smallest.height}x{smallest.width}"
            " (height x width); clips are never enlarged"
        )
        return Fault(reason="too_small", detail=detail)
    kept = {size: _kept(facts, size) for size in covered}
    best = max(covered, key=lambda s: (round(kept[s] * _KEPT_STEPS), s.frames, s.pixels))
    return Bucket(best, float(kept[best]))


def windows_of(facts: ClipFacts, video: VideoConfig) -> tuple[int, ...]:
    """First frames of the windows: the clip in equal parts, one window at the head of each.

    As many as fit without overlapping, at most `video.windows`; none if no bucket fits.
    """
    bucket = best_bucket(facts, video)
    if isinstance(bucket, Fault):
        return ()
    count = min(video.windows, facts.frames // _needed(facts, bucket.size, video))
    return tuple(number * facts.frames // count for number in range(count))


def window_clips(clip: Clip, video: VideoConfig) -> tuple[Clip, ...]:
    """The clip once for each of its windows, and once more for each that is trained on mirrored."""
    flips = (False, True) if video.flip and is_mirrorable(clip) else (False,)
    return tuple(
        clip.model_copy(update={"start_frame": start, "flip": flip})
        for start in windows_of(clip.facts, video)
        for flip in flips
    )


def is_mirrorable(clip: Clip) -> bool:
    """Whether the clip may be mirrored: it is trained on, and its caption names no side."""
    return clip.split == "train" and not _SIDES.search(clip.caption)


def unmirrored(clips: Iterable[Clip]) -> int:
    """How many training clips the recipe's `video.flip` passes over because of their captions."""
    return len({clip.key for clip in clips if clip.split == "train" and not is_mirrorable(clip)})


def crop_rule(clip: Clip) -> CropRule:
    """Where the window is cut: a function of its bytes, its start and the seed in `clip.crop`.

    A mirrored window is cut where its original is.
    """
    if not clip.crop.startswith(_RANDOM):
        return CENTRE
    seed = clip.crop.removeprefix(_RANDOM)
    lot = sha256_bytes(f"crop:{seed}:{clip.sha256}:{clip.start_frame}".encode())
    return CropRule(*((int(part, 16) + 1) / 2**32 for part in (lot[:8], lot[8:16])))


def _needed(facts: ClipFacts, size: VideoSize, video: VideoConfig) -> int:
    return frames_needed(source_fps=facts.fps, target_fps=video.fps, count=size.frames)


def _kept(facts: ClipFacts, size: VideoSize) -> Fraction:
    """Share of the picture that is left after covering the size and cutting what sticks out."""
    one, other = size.height * facts.width, size.width * facts.height
    return Fraction(min(one, other), max(one, other))
