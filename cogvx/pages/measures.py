"""Charts of what was measured of every clip: its caption's length, its motion, its brightness."""

from cogvx.data.manifest import Manifest
from cogvx.data.statistics import brightnesses, each_clip, motions, token_counts
from cogvx.pages.axes import Axis, even_axis, ratio_axis
from cogvx.pages.histogram import Histogram, draw_histogram
from cogvx.recipe_sections import DatasetConfig

_TOKEN_BINS = 26
_LIGHT = Axis(tuple(float(edge) for edge in range(0, 257, 8)), (0.0, 64.0, 128.0, 192.0, 256.0))
# Grain alone moves this much or more; below there are stills, which all look alike.
_STILL = 0.01


def draw_measures(
    manifest: Manifest, reference: Manifest | None, *, config: DatasetConfig, token_limit: int
) -> list[Histogram]:
    """The charts of those measures that were taken; `reference` is drawn as a line."""
    clips = each_clip(manifest)
    others = each_clip(reference) if reference else ()
    charts = []
    if token_counts(clips):
        longest = max([*token_counts(clips), *token_counts(others)])
        charts.append(
            draw_histogram(
                "Caption length",
                token_counts(clips),
                other=token_counts(others),
                axis=even_axis(max(longest, 1.1 * token_limit), _TOKEN_BINS),
                unit="tokens",
                limit=(token_limit, f"model reads {token_limit}"),
            )
        )
    if motions(clips):
        least = config.min_motion
        charts.append(
            draw_histogram(
                "Motion",
                motions(clips),
                other=motions(others),
                axis=ratio_axis(
                    [*motions(clips), *motions(others)],
                    low=min(_STILL, least / 2) if least else _STILL,
                    high=10.0,
                ),
                unit="mean change of luma, 0 to 255",
                limit=(least, f"static below {least:g}") if least else None,
            )
        )
    if brightnesses(clips):
        darkest = config.min_brightness
        charts.append(
            draw_histogram(
                "Brightness",
                brightnesses(clips),
                other=brightnesses(others),
                axis=_LIGHT,
                unit="mean luma, 0 to 255",
                limit=(darkest, f"black below {darkest:g}") if darkest else None,
            )
        )
    return charts
