"""What the flow `generate` hands on: reports of shards, of the whole, and lines of its index."""

from pydantic import BaseModel, ConfigDict

from tasks.documents import DeviceKind


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FailedVideo(_Document):
    """A video that could not be made, and why."""

    name: str
    why: str


class VideoShardReport(_Document):
    """What became of a shard's videos: all that are neither made nor failed were there before.

    It held one device of this kind for so many seconds; 0 in reports of before that was measured.
    """

    wanted: int
    made: int
    failed: tuple[FailedVideo, ...] = ()
    seconds: float = 0.0
    device: DeviceKind = "cpu"


class GenerateReport(_Document):
    """What a job made, and where it is looked at: the folder in the store has the videos."""

    name: str
    folder: str
    page: str
    videos: int
    made: int
    failed: tuple[FailedVideo, ...] = ()


class IndexLine(_Document):
    """One video in index.jsonl; `file` is None for one that is not there, and `why` says why."""

    name: str
    file: str | None
    video: str
    prompt: str
    negative_prompt: str
    seed: int
    scale: float
    size: str
    why: str | None = None
