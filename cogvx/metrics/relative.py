"""Metrics that compare: with the base, with training clips, with other videos of the same prompt.

Only how to read them stands here, so that control machines need nothing heavy; what computes them
is in `ssim`, `luma` and, for drift, at whoever has the model.
"""

from cogvx.metrics.metric import Metric

BASE_DRIFT = "base_drift"
BASE_DISTANCE = "base_distance"
DIVERSITY_LUMA = "diversity_luma"
MEMORISATION_LUMA = "memorisation_luma"

RELATIVE = (
    Metric(
        BASE_DRIFT,
        "drift",
        "mse of v",
        -1,
        "prompt",
        "how far predictions move from the base's on prompts that are none of its business",
        "it cannot tell a change for the better from one for the worse, and steps add up: small "
        "drift at every step may end in another video",
    ),
    Metric(
        BASE_DISTANCE,
        "off base",
        "1 - SSIM",
        -1,
        "video",
        "how unlike the base's video of the same prompt and seed, where it should be like it",
        "a thing that stands elsewhere counts as much as one that is ruined: beyond about 0.5 it "
        "says only that the video is another one",
    ),
    Metric(
        DIVERSITY_LUMA,
        "variety",
        "0..1",
        1,
        "prompt",
        "how unlike each other a prompt's videos are, on tiny grey copies, seed against seed",
        "a brighter picture counts as another one, other colours do not; two seeds are a single "
        "pair, and noise may stand in for variety",
    ),
    Metric(
        MEMORISATION_LUMA,
        "nearest clip",
        "-1..1",
        -1,
        "video",
        "how much its likest frame resembles the likest frame of any training clip, in tiny grey "
        "copies of both",
        "simple scenes resemble each other without being copied, and a copy that is mirrored, "
        "shifted or cut otherwise is missed",
    ),
)
