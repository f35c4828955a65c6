"""What runs of `measure-shard` are given and hand back: what to measure of an arm, what came of it.

The numbers themselves lie in the store under the names that an evaluation looks for.
"""

from pydantic import BaseModel, ConfigDict

from cogvx.cache.plan import Sample
from cogvx.evaluation.suite import PromptConfig


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scene(_Document):
    """A prompt that is none of the adapter's business, and the base's video of its first seed.

    `key` is the video's name in the store. In a plan the prompt's picture lies in the store, too.
    """

    prompt: PromptConfig
    seed: int
    key: str


class MeasurePlan(_Document):
    """What is to be measured of one arm.

    Attributes:
        base: Fingerprint of the base that is meant.
        arm: What reports call it.
        adapters: By sha256 of the file, with the weight; the files lie in the store.
        windows: Sets of windows, for the losses of each.
        scenes: For the drift from the base.
    """

    base: str
    arm: str
    adapters: tuple[tuple[str, float], ...] = ()
    windows: tuple[tuple[Sample, ...], ...] = ()
    scenes: tuple[Scene, ...] = ()


class MeasureReport(_Document):
    """What came of a plan, beside the numbers in the store.

    Attributes:
        wanted: How many sets and scenes there were.
        told: Timesteps and losses of sets in which some are not finite, by their place in the
            store, where they are not kept; losses are texts, as JSON has no such numbers.
        lost: What is known of records that were lost; empty where none were.
    """

    wanted: int
    told: dict[str, tuple[tuple[int, str], ...]] = {}
    lost: str = ""
