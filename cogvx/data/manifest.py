"""The manifest: which clips a run is made from, which were refused and why, which are held out."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.digest import digest
from cogvx.shapes import VideoSize

Split = Literal["train", "heldout"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClipLook(_Document):
    """What a few frames, spread over the clip, look like.

    `brightness` is the mean luma and `motion` the mean absolute difference of luma between
    neighbouring looked-at frames, both 0 to 255; `frames_sha256` is of their decoded pixels.
    """

    brightness: float
    motion: float
    frames_sha256: str


class ClipFacts(_Document):
    """What a container says of its video stream; `fps` is the average rate.

    `look` is None where nobody has looked at the frames.
    """

    width: int
    height: int
    frames: int
    fps: float
    codec: str
    look: ClipLook | None = None

    @property
    def seconds(self) -> float:
        """Playing time."""
        return self.frames / self.fps


class Clip(_Document):
    """A window of an accepted clip; a clip with several windows stands there several times.

    `key` is the clip's place below the dataset, and `start_frame` counts in the source. The window
    is cut to `size` at the centre, or at the place that "random-SEED" gives (`crop`), and mirrored
    if `flip` says so. `tokens` is the caption's length before truncation, None if nobody counted.
    """

    key: str
    sha256: str
    caption: str
    facts: ClipFacts
    size: VideoSize
    start_frame: int = 0
    split: Split = "train"
    flip: bool = False
    crop: str = "centre"
    tokens: int | None = None


class Fault(_Document):
    """Why a clip is not used. `reason` is one word for counting, `detail` a sentence.

    While looking: unreadable, missing, outside, caption, duplicate, same_frames, too_slow,
    too_short, too_small, aspect, static, black.
    While encoding: undecodable, missing, changed, forbidden.
    """

    reason: str
    detail: str


class Rejected(Fault):
    """A clip that is not used."""

    key: str


class Refused(Rejected):
    """A clip that could not be encoded. It says nothing of other bytes than those of `sha256`."""

    sha256: str


class Manifest(_Document):
    """A dataset at one moment: its windows, ordered by key, then by start and mirror."""

    schema_version: Literal[1] = 1
    dataset: str
    clips: tuple[Clip, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def train(self) -> tuple[Clip, ...]:
        """Windows to train on."""
        return tuple(clip for clip in self.clips if clip.split == "train")

    @property
    def heldout(self) -> tuple[Clip, ...]:
        """Windows to measure on; no other window of their clips is trained on."""
        return tuple(clip for clip in self.clips if clip.split == "heldout")

    @staticmethod
    def count_clips(windows: Iterable[Clip]) -> int:
        """How many clips there are windows of."""
        return len({window.key for window in windows})

    def rejected_counts(self) -> dict[str, int]:
        """How many clips were refused, by reason."""
        return dict(sorted(Counter(item.reason for item in self.rejected).items()))

    def content_digest(self) -> str:
        """Digest of what training sees: bytes, captions, windows and split; not where they lie."""
        rows = [
            [
                clip.sha256,
                clip.caption,
                clip.start_frame,
                clip.split,
                str(clip.size),
                clip.flip,
                clip.crop,
            ]
            for clip in self.clips
        ]
        return digest(sorted(rows))
