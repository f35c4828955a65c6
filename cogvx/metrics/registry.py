"""Which metrics there are: ours, and those that a team installs beside us.

A team's metric is one file in a package of theirs, holding a `Metric`, and an entry point that
names it:

    [project.entry-points."cogvx.metrics"]
    sharpness = "our_package.sharpness:SHARPNESS"

Only what was installed on purpose is ever run. From then on the metric has a row in every report,
suites may guard it, and `cogvx score --metric sharpness` measures it.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from cogvx.errors import ConfigError, Problem
from cogvx.metrics import motion, pixels
from cogvx.metrics.learned import LEARNED
from cogvx.metrics.metric import Metric, Rgb
from cogvx.metrics.relative import RELATIVE

if TYPE_CHECKING:
    from cogvx.metrics.viewed import Viewed
    from cogvx.mp4 import Mp4  # loads the codecs

HELDOUT_LOSS = "heldout_loss"
GROUP = "cogvx.metrics"


def _of_frames(measure: Callable[[Rgb], float]) -> "Callable[[Mp4], float]":
    return lambda video: measure(video.rgb_fhwc)


def _of_view(measure: "Callable[[Viewed], float]") -> "Callable[[Mp4], float]":
    return lambda video: measure(_viewed(video))


def _viewed(video: "Mp4") -> "Viewed":
    from cogvx.metrics.viewed import Viewed  # noqa: PLC0415 - loads the codecs

    return Viewed.of(video)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                HELDOUT_LOSS,
                "loss",
                "mse of v",
                -1,
                "heldout",
                "how well clips are denoised that training never saw; fixed timesteps and noise",
                "it is a proxy: an adapter can fit frames better and follow prompts worse",
            ),
            Metric(
                "temporal_flickering",
                "calm",
                "0..1",
                1,
                "video",
                "calm between frames as VBench defines it; a frozen video scores best",
                "wanted motion scores worse than none: only a guard, beside a floor for motion",
                _of_view(lambda video: pixels.temporal_flickering(video.changes_f)),
            ),
            Metric(
                "motion_magnitude",
                "motion",
                "px/frame",
                1,
                "video",
                "speed of the fastest 5 % of the picture, short side 256; noise counts as motion",
                "cuts count as motion, the camera's as the subject's; above a tenth of the short "
                "side a frame it reads too little",
                _of_view(lambda video: motion.motion_magnitude(video.speeds_f)),
            ),
            Metric(
                "motion_smoothness_linear",
                "smooth",
                "0..1",
                1,
                "video",
                "how well each second frame is the mean of its neighbours; a frozen video is best",
                "fast motion that is smooth scores as badly as jitter: compare at like motion",
                _of_frames(motion.motion_smoothness),
            ),
            Metric(
                "dynamic_degree_farneback",
                "moves",
                "0 or 1",
                1,
                "video",
                "whether it moves at all, by VBench's thresholds on Farneback's flow",
                "two values say little over few prompts: prefer motion_magnitude; not comparable "
                "with published numbers, which use RAFT",
                _of_view(lambda video: video.dynamic_degree),
            ),
            Metric(
                "brightness",
                "brightness",
                "0..255",
                0,
                "video",
                "mean luma",
                "prompts ask for night or snow: compare arms prompt by prompt, never sets",
                _of_view(lambda video: pixels.brightness(video.colours)),
            ),
            Metric(
                "contrast",
                "contrast",
                "0..127",
                0,
                "video",
                "spread of luma within a frame",
                "flat graphic styles have little and are right",
                _of_view(lambda video: pixels.contrast(video.colours)),
            ),
            Metric(
                "saturation",
                "saturation",
                "0..1",
                0,
                "video",
                "mean HSV saturation",
                "in the dark the coder's chroma noise looks saturated",
                _of_frames(pixels.saturation),
            ),
            *RELATIVE,
            *LEARNED,
        )
    }
)


@functools.cache
def metrics() -> Mapping[str, Metric]:
    """Ours and the installed ones, by name; looked up once a process.

    Raises:
        ConfigError: An installed one cannot be loaded or is no such metric; all at once.
    """
    found = dict(METRICS)
    problems = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        loaded = _load(entry, taken=found)
        if isinstance(loaded, Problem):
            problems.append(loaded)
        else:
            found[loaded.name] = loaded
    if problems:
        raise ConfigError("installed metrics", problems)
    return MappingProxyType(found)


def measure(video: "Mp4", names: Collection[str] | None = None) -> dict[str, float]:
    """Metrics of kind "video" on one decoded video, by name; all of them unless `names` says.

    Raises:
        ConfigError: A metric gave something other than a finite number.
    """
    values, video = {}, _viewed(video)
    for name, metric in metrics().items():
        if metric.measure is None or (names is not None and name not in names):
            continue
        values[name] = float(metric.measure(video))
        if not math.isfinite(values[name]):
            raise ConfigError(
                f"metric {name} is {values[name]} on a video; mend it, or remove the package that "
                "brings it"
            )
    return values


def _load(entry: EntryPoint, taken: Collection[str]) -> Metric | Problem:
    where = f"{GROUP}.{entry.name}"
    try:
        metric = entry.load()
    except (ImportError, AttributeError) as error:
        return Problem(where, entry.value, f"cannot be loaded: {error}", "mend or remove it")
    if not isinstance(metric, Metric):
        return Problem(where, entry.value, "is no Metric", "use cogvx.metrics.metric.Metric")
    if metric.name != entry.name:
        return Problem(where, entry.value, f'calls itself "{metric.name}"', "use one name")
    if metric.name in taken:
        return Problem(where, entry.value, "has a name that is taken", "use another name")
    if metric.kind != "video" or metric.measure is None:
        return Problem(where, entry.value, "does not measure videos", 'use kind "video"')
    return metric
