"""Gauges beside the base: how unlike its videos an arm's are, and what was found out otherwise."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cogvx.digest import sha256_file
from cogvx.evaluation.gauge import Findings, Seen
from cogvx.evaluation.scores import recall
from cogvx.evaluation.suite_rule import Group
from cogvx.metrics.identity import tools
from cogvx.metrics.relative import BASE_DISTANCE
from cogvx.metrics.ssim import similarity
from cogvx.mp4 import read_mp4
from cogvx.store import ObjectStore

AWAY: tuple[Group, ...] = ("trigger_free", "off_domain")
"""Groups of prompts whose videos an adapter should leave as the base draws them."""
_VERSION = 1  # of the comparison; raised when its numbers change


class Told:
    """Findings that were made without looking at videos."""

    def __init__(self, findings: Findings) -> None:
        """They are all that it will tell."""
        self._findings = findings

    def look(self, seen: Seen) -> Mapping[str, float]:  # noqa: ARG002 - other gauges look
        """Nothing."""
        return {}

    def findings(self) -> Findings:
        """As they were given."""
        return self._findings


class _Distance(BaseModel):
    """What is kept of two videos; None where they are not of one size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distance: float | None


class BaseDistance:
    """How unlike the base's own video of the same prompt and seed, on prompts of `AWAY`."""

    def __init__(
        self, base_videos: Mapping[tuple[str, int], Path], store: ObjectStore | None = None
    ) -> None:
        """Args are the base's videos, but for those that it failed to draw; what keeps results."""
        self._base_videos = base_videos
        self._store = store

    def look(self, seen: Seen) -> Mapping[str, float]:
        """1 - SSIM; nothing for a video of another size or length, which is a fault of its own."""
        path = self._base_videos.get((seen.prompt.id, seen.seed))
        if seen.prompt.group not in AWAY or path is None:
            return {}
        base = sha256_file(path)
        if base == seen.sha256:
            return {BASE_DISTANCE: 0.0}
        files = {"video": seen.sha256, "base": base}
        parts = {"of": "distance", "version": _VERSION, "tools": _tools(), **files}
        found = recall(self._store, parts, _Distance, measure=lambda: _compare(seen, path))
        return {} if found.distance is None else {BASE_DISTANCE: found.distance}

    def findings(self) -> Findings:
        """Nothing more."""
        return Findings()


def _tools() -> str:
    """What decodes and compares frames, with versions: the last digits may be theirs."""
    compared_by = (f"{name} {version(name)}" for name in ("torchmetrics", "torch"))
    return ", ".join((tools(), *compared_by))


def _compare(seen: Seen, path: Path) -> _Distance:
    ours_fhwc, base_fhwc = seen.video.rgb_fhwc, read_mp4(path).rgb_fhwc
    if ours_fhwc.shape != base_fhwc.shape:
        return _Distance(distance=None)
    return _Distance(distance=1.0 - similarity(ours_fhwc, base_fhwc))
