"""Video files, whoever made them, to numbers: each decoded once, for all metrics."""

import difflib
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, Problem
from cogvx.metrics.pixels import sanity_faults
from cogvx.metrics.registry import measure, metrics
from cogvx.mp4 import read_mp4


class Scored(BaseModel):
    """One file's numbers, by metric; `faults` are what makes them worthless."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    sha256: str
    frames: int
    height: int
    width: int
    fps: float
    values: dict[str, float]
    faults: tuple[str, ...]


def score_file(path: Path, names: Collection[str] | None = None) -> Scored:
    """Measure one video.

    Args:
        path: Any video that FFmpeg decodes.
        names: Which metrics; all that videos have, unless given.

    Raises:
        DataError: The file holds no video that can be decoded.
        ConfigError: A metric that a team brought gave no finite number.
    """
    video = read_mp4(path)
    frames, height, width, _ = video.rgb_fhwc.shape
    return Scored(
        path=str(path),
        sha256=sha256_file(path),
        frames=frames,
        height=height,
        width=width,
        fps=video.fps,
        values=measure(video, names),
        faults=sanity_faults(video.rgb_fhwc),
    )


def require_video_metrics(names: Collection[str]) -> None:
    """Refuse names that no metric of videos has, all at once, before anything is decoded.

    Raises:
        ConfigError: Some are unknown, or are not measured on videos.
    """
    known = [name for name, metric in metrics().items() if metric.measure is not None]
    problems = []
    for name in names:
        if name not in known:
            closest = difflib.get_close_matches(name, known, n=1)
            use = f'closest: "{closest[0]}"' if closest else "known: " + ", ".join(known)
            problems.append(Problem("--metric", name, "is not measured on videos", use))
    if problems:
        raise ConfigError("what to score", problems)
