"""The manifest: which clips a run is made from, which were refused and why, which are held out."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.digest import digest

Split = Literal["train", "heldout"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClipFacts(_Document):
    """What a container says of its video stream; `fps` is the average rate."""

    width: int
    height: int
    frames: int
    fps: float
    codec: str

    @property
    def seconds(self) -> float:
        """Playing time."""
        return self.frames / self.fps


class Clip(_Document):
    """An accepted clip: its place below the dataset, and where its window starts in the source."""

    key: str
    sha256: str
    caption: str
    facts: ClipFacts
    start_frame: int = 0
    split: Split = "train"


class Fault(_Document):
    """Why a clip is not used. `reason` is one word for counting, `detail` a sentence.

    While looking: unreadable, missing, outside, caption, duplicate, too_slow, too_short, too_small.
    While encoding: undecodable, missing, changed.
    """

    reason: str
    detail: str


class Rejected(Fault):
    """A clip that is not used."""

    key: str


class Manifest(_Document):
    """A dataset at one moment, ordered by key."""

    schema_version: Literal[1] = 1
    dataset: str
    clips: tuple[Clip, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def train(self) -> tuple[Clip, ...]:
        """Clips to train on."""
        return tuple(clip for clip in self.clips if clip.split == "train")

    @property
    def heldout(self) -> tuple[Clip, ...]:
        """Clips to measure on, never trained on."""
        return tuple(clip for clip in self.clips if clip.split == "heldout")

    def rejected_counts(self) -> dict[str, int]:
        """How many clips were refused, by reason."""
        return dict(sorted(Counter(item.reason for item in self.rejected).items()))

    def content_digest(self) -> str:
        """Digest of what training sees: bytes, captions, windows and split; not where they lie."""
        rows = [[clip.sha256, clip.caption, clip.start_frame, clip.split] for clip in self.clips]
        return digest(sorted(rows))
