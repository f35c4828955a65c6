"""Video files, whoever made them, to numbers: each decoded once, for all metrics."""

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, Problem
from cogvx.metrics.registry import measure, metrics
from cogvx.metrics.viewed import Viewed
from cogvx.mp4 import Mp4, read_mp4
from cogvx.store import MemoryStore, ObjectStore

if TYPE_CHECKING:
    from cogvx.metrics.encoder_set import EncoderSet  # loads torch


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
    encoders: dict[str, str] = Field(default_factory=dict)
    """Identity of each network, by kind."""


def score_file(
    path: Path,
    names: Collection[str] | None = None,
    *,
    encoders: "EncoderSet | None" = None,
    text: str | None = None,
    store: ObjectStore | None = None,
) -> Scored:
    """Measure one video.

    Args:
        path: Any video that FFmpeg decodes.
        names: Which metrics of the registry; all that videos have, unless given.
        encoders: Networks, each of which adds its metrics.
        text: What the video should show, for networks that read.
        store: Where features are kept; without one they are computed anew.

    Raises:
        DataError: The file holds no video that can be decoded.
        IntegrityError: Features in the store are damaged.
        ConfigError: A metric that a team brought gave no finite number.
    """
    video = Viewed.of(read_mp4(path))
    frames, height, width, _ = video.rgb_fhwc.shape
    sha256 = sha256_file(path)
    values = measure(video, names)
    if encoders is not None:
        values |= _seen_by(encoders, video, sha256, text=text, store=store or MemoryStore())
    return Scored(
        path=str(path),
        sha256=sha256,
        frames=frames,
        height=height,
        width=width,
        fps=video.fps,
        values=values,
        faults=video.sanity_faults,
        encoders={} if encoders is None else encoders.identities,
    )


def _seen_by(
    encoders: "EncoderSet", video: Mp4, sha256: str, *, text: str | None, store: ObjectStore
) -> dict[str, float]:
    """What networks add, by metric."""
    from cogvx.metrics.video_features import VideoFeatures, values_of  # noqa: PLC0415 - loads torch

    features = VideoFeatures(sha256, lambda: video.rgb_fhwc, store)
    readers = {} if text is None else encoders.texts
    texts = {kind: reader.features(text or "") for kind, reader in readers.items()}
    return values_of(features, encoders, texts)


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
