"""A new adapter at other weights: what is drawn, what comes of it, and which weight to try.

It decides nothing. The verdict is on weight 1, and the prompts are of a suite of its own: a weight
that was chosen on the prompts that decide would be promoted by luck too often.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean

from cogvx.evaluation.documents import ArmResult, SweepPoint
from cogvx.evaluation.suite import Suite
from cogvx.metrics.registry import HELDOUT_LOSS, metrics
from cogvx.metrics.relative import BASE_DRIFT

ENOUGH = 0.9
"""Of the best gain that any weight has: where a smaller weight has so much, it is suggested."""


def one_seed_each(suite: Suite) -> Suite:
    """The same prompts, each with the first of its seeds: a curve needs many weights, not seeds."""
    prompts = tuple(
        prompt.model_copy(update={"seeds": None if prompt.seeds is None else prompt.seeds[:1]})
        for prompt in suite.prompts
    )
    # not model_copy, which would copy the old digest where that was asked for before
    parts = {name: getattr(suite, name) for name in Suite.model_fields}
    return Suite(**{**parts, "seeds": suite.seeds[:1], "prompts": prompts})


def points_of(weight: float, result: ArmResult, *, videos: int) -> tuple[SweepPoint, ...]:
    """Means of everything measured at one weight, metrics in the registry's order.

    Args:
        weight: What the adapter acted with; 0 for the base.
        result: What was measured of it.
        videos: How many it should have. A mean over fewer prompts or clips would not compare with
            the other weights', so what lacks some is no point.
    """
    points = []
    for name, metric in metrics().items():
        values = result.losses() if name == HELDOUT_LOSS else result.values(name)
        is_heldout = metric.kind == "heldout"
        is_whole = not result.faults if is_heldout else len(result.videos) == videos
        if values and is_whole:
            value = fmean(values.values())
            points.append(SweepPoint(weight=weight, metric=name, value=value))
    return tuple(points)


def weight_to_try(points: Iterable[SweepPoint]) -> str | None:
    """The smallest weight with nine tenths of the best gain in held-out loss, as a sentence.

    Gain bends as the weight grows, while what is paid for it, the drift from the base, does not:
    the last tenth of the gain is where most of the drift is. None without held-out losses.
    """
    values = {(point.metric, point.weight): point.value for point in points}
    losses = {weight: value for (name, weight), value in values.items() if name == HELDOUT_LOSS}
    if 0.0 not in losses or len(losses) < 2:
        return None
    gains = {weight: losses[0.0] - loss for weight, loss in losses.items() if weight}
    best = max(gains, key=lambda weight: (gains[weight], -weight))
    if gains[best] <= 0:
        return "none: no weight lowers the held-out loss of the base"
    tried = min(weight for weight, gain in gains.items() if gain >= ENOUGH * gains[best])
    said = f"{tried:g}, the smallest with nine tenths of the best gain in held-out loss"
    if tried == best:
        return f"{said}, which is its own ({gains[best]:.4g}); a suggestion, which decides nothing"
    drifts = [values.get((BASE_DRIFT, weight)) for weight in (tried, best)]
    paid = _share(drifts)
    return (
        f"{said} ({gains[tried]:.4g} of {gains[best]:.4g} at {best:g}{paid}); a suggestion, which "
        "decides nothing"
    )


def _share(drifts: Sequence[float | None]) -> str:
    here, there = drifts
    return f", with {here / there:.0%} of the drift" if here is not None and there else ""
