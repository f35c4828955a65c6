"""Gauges that need no network: variety, likeness to the base's video, and findings of others."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cogvx.evaluation.documents import Reading
from cogvx.evaluation.gauge import Findings, Seen
from cogvx.evaluation.suite_rule import Group
from cogvx.metrics.luma import mean_difference
from cogvx.metrics.relative import BASE_DISTANCE, DIVERSITY_LUMA
from cogvx.metrics.similarity import Rows
from cogvx.metrics.ssim import similarity
from cogvx.mp4 import read_mp4

AWAY: tuple[Group, ...] = ("trigger_free", "off_domain")
"""Groups of prompts whose videos an adapter should leave as the base draws them."""


class Told:
    """Findings that were made without looking at videos."""

    def __init__(self, findings: Findings) -> None:
        """They are all that it will tell."""
        self._findings = findings

    def look(self, seen: Seen) -> Mapping[str, float]:  # noqa: ARG002 - others look
        """Nothing."""
        return {}

    def findings(self) -> Findings:
        """As they were given."""
        return self._findings


class Variety:
    """How far apart the videos of a prompt are, for every prompt with two seeds or more.

    Not of captions of training clips: there the same video for every seed is what memory gives.
    """

    def __init__(self, thumbnails: Callable[[Seen], Rows]) -> None:
        """`thumbnails` gives a video's, as `Thumbnails` makes them."""
        self._thumbnails = thumbnails
        self._videos: dict[str, list[Rows]] = {}

    def look(self, seen: Seen) -> Mapping[str, float]:
        """Remembers the video; it has no number of its own."""
        if seen.prompt.group != "train_caption":
            self._videos.setdefault(seen.prompt.id, []).append(self._thumbnails(seen))
        return {}

    def findings(self) -> Findings:
        """One reading a prompt."""
        found = {prompt: mean_difference(videos) for prompt, videos in self._videos.items()}
        return Findings(
            readings=tuple(
                Reading(metric=DIVERSITY_LUMA, unit=prompt, draw=0, value=value)
                for prompt, value in found.items()
                if value is not None
            )
        )


class BaseDistance:
    """How unlike the base's own video of the same prompt and seed, on prompts of `AWAY`."""

    def __init__(self, base_videos: Mapping[tuple[str, int], Path]) -> None:
        """The base's videos by prompt and seed, but for those that it failed to draw."""
        self._base_videos = base_videos

    def look(self, seen: Seen) -> Mapping[str, float]:
        """1 - SSIM; nothing for a video of another size or length, which is a fault of its own."""
        path = self._base_videos.get((seen.prompt.id, seen.seed))
        if seen.prompt.group not in AWAY or path is None:
            return {}
        if path.read_bytes() == seen.path.read_bytes():
            return {BASE_DISTANCE: 0.0}
        ours_fhwc, base_fhwc = seen.video.rgb_fhwc, read_mp4(path).rgb_fhwc
        if ours_fhwc.shape != base_fhwc.shape:
            return {}
        return {BASE_DISTANCE: 1.0 - similarity(ours_fhwc, base_fhwc)}

    def findings(self) -> Findings:
        """Nothing more."""
        return Findings()
