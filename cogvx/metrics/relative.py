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
        "it cannot tell a change for the better from one for the worse, and the first steps decide "
        "what a video shows: read the last timesteps, too",
    ),
    Metric(
        BASE_DISTANCE,
        "off base",
        "1 - SSIM",
        -1,
        "video",
        "how unlike the base's video of the same prompt and seed, where it should be like it",
        "where there is texture, a few pixels elsewhere count as much as ruin does: beyond about "
        "0.6 it says only that the video is another one",
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
        "simple scenes resemble each other without being copied, and colours are not seen; a copy "
        "that is mirrored, or a quarter closer, is missed: look at the pairs",
    ),
)
