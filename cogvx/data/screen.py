"""Which clips a recipe can learn from, by what the probe found, before anything is decoded."""

from cogvx.data.manifest import ClipFacts, Fault
from cogvx.data.windows import best_bucket
from cogvx.recipe import VideoConfig


def fault_of(facts: ClipFacts, *, video: VideoConfig) -> Fault | None:
    """What keeps a clip from giving a window at one of the recipe's sizes."""
    bucket = best_bucket(facts, video)
    return bucket if isinstance(bucket, Fault) else None
