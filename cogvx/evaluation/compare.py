"""One metric on two arms: the paired effect, its bounds, and how it stands to its margin."""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from cogvx.evaluation import statistics
from cogvx.evaluation.documents import Chance, Comparison, Effect, Limit, Result, Role
from cogvx.evaluation.power import detectable_effect
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.suite_rule import GROUPS, Group, GuardConfig
from cogvx.metrics.metric import Metric

Values = Mapping[tuple[str, int], float]
"""By prompt and seed, by prompt and draw, or by clip and timestep."""


@dataclass(frozen=True)
class Measured:
    """One metric on both arms, keyed by unit and repeat.

    `base` is shown beside a champion. `unsound` are videos of the reference that are no measure of
    luck. `groups` are those of the prompts that are left, where that is not all of the suite, and
    `everywhere` is then the reference on all of them.
    """

    metric: Metric
    reference: Values
    candidate: Values
    base: Values = field(default_factory=dict)
    unsound: AbstractSet[tuple[str, int]] = frozenset()
    groups: tuple[Group, ...] | None = None
    everywhere: Values | None = None

    @property
    def gains(self) -> dict[str, float]:
        """Paired effect of each prompt or clip; positive is better, or more where no side is."""
        sign = self.metric.direction or 1
        found = statistics.paired_differences(self.reference, self.candidate)
        return {unit: sign * difference for unit, difference in found.items()}

    @property
    def yardstick(self) -> float | None:
        """What luck alone moves, from the reference alone; None where unknown or zero.

        A video metric's is the seed SD inside prompts. What has no seeds takes the SD between its
        units, clips or prompts, which the candidate cannot shrink either. It is large beside the
        effect, so in a mixed composite the generated videos outweigh the held-out loss. All prompts
        of the suite tell it, whichever are left: an SD of a few would be luck itself.
        """
        values = self.reference if self.everywhere is None else self.everywhere
        if self.metric.kind != "video":
            return statistics.unit_sd(values) or None
        sound = {key: value for key, value in values.items() if key not in self.unsound}
        return statistics.pooled_seed_sd(sound) or None

    @property
    def per(self) -> Literal["prompt", "clip"]:
        """The unit of analysis."""
        return "clip" if self.metric.kind == "heldout" else "prompt"

    def over(self, suite: Suite, groups: Collection[Group]) -> "Measured | None":
        """What was measured on prompts of some groups; None if nothing. Clips have no groups."""
        if self.metric.kind == "heldout":
            return self
        ids = set(suite.ids_of(groups))
        old, new, bare = (
            {key: value for key, value in values.items() if key[0] in ids}
            for values in (self.reference, self.candidate, self.base)
        )
        if not old:
            return None
        units = {unit for unit, _ in old}
        present = tuple(group for group in GROUPS if suite.ids_of([group]))
        left = tuple(group for group in present if units & set(suite.ids_of([group])))
        return replace(
            self,
            reference=old,
            candidate=new,
            base=bare,
            groups=None if left == present else left,
            everywhere=self.reference if self.everywhere is None else self.everywhere,
        )


def effect_of(gains: Mapping[str, float], confidence: float) -> Effect:
    """Summarise paired gains; bounds hold with the one-sided `confidence`."""
    values = list(gains.values())
    mean = statistics.mean_of(values)
    bounds = mean.interval(confidence) if mean else None
    bca = statistics.bca_interval(values, confidence)
    return Effect(
        units=len(values),
        mean=float(np.mean(values)),
        low=bounds.low if bounds else None,
        high=bounds.high if bounds else None,
        confidence=confidence,
        won=sum(value > 0 for value in values),
        lost=sum(value < 0 for value in values),
        bca_low=bca.low if bca else None,
        bca_high=bca.high if bca else None,
        wilcoxon_p=statistics.wilcoxon_p(values),
    )


def as_primary(measured: Measured, confidence: float) -> Comparison:
    """A primary alone; the rule looks at the composite, this row explains it."""
    effect = effect_of(measured.gains, confidence)
    result: Result = "undecided"
    if effect.low is not None and effect.low > 0:
        result = "better"
    elif effect.high is not None and effect.high < 0:
        result = "worse"
    return _row(measured, "primary", effect, result)


def as_screened(measured: Measured, confidence: float, *, against: str | None) -> Comparison:
    """Held-out losses alone, against an arm that need not be the reference of the verdict."""
    row = as_primary(measured, confidence)
    row = row.model_copy(update={"against": against})
    return row.model_copy(update={"sentence": _sentence(row, kind=measured.metric.kind)})


def as_guard(measured: Measured, guard: GuardConfig, confidence: float) -> Comparison:
    """Whether a metric is proved not to have lost more than its margin.

    A metric without a better side must stay within the margin on both sides.
    """
    effect = effect_of(measured.gains, confidence)
    margin = guard.margin
    if margin is None and measured.yardstick is not None:
        margin = guard.margin_sd * measured.yardstick
    return _row(
        measured,
        "guard",
        effect,
        _guard_result(effect, margin, two_sided=measured.metric.direction == 0),
        margin,
    )


def as_ceiling(measured: Measured, limit: Limit | float | None, confidence: float) -> Comparison:
    """Whether the candidate's videos, or prompts, stay at or under a limit.

    A declared limit no single one may exceed. Over a limit that was measured some lie by chance, as
    held-out clips do: it is broken by more prompts than videos as near as those clips would show
    with a probability of 1 - `confidence`. Prompts are counted and not videos, as seeds of a prompt
    resemble each other. Without a limit all is undecided.
    """
    effect = effect_of(measured.gains, confidence)
    if limit is None:
        return _row(measured, "ceiling", effect, "undecided")
    value = limit.value if isinstance(limit, Limit) else limit
    over = {unit for (unit, _), found in measured.candidate.items() if found > value}
    chance = None
    if isinstance(limit, Limit):
        allowed = statistics.allowed_over(
            len(measured.candidate), clips=limit.clips, above=limit.above, confidence=confidence
        )
        prompts = len({unit for unit, _ in measured.candidate})
        chance = Chance(clips=limit.clips, prompts=prompts, over=len(over), allowed=allowed)
    broken = len(over) > (chance.allowed if chance else 0)
    row = _row(measured, "ceiling", effect, "over limit" if broken else "under limit", value)
    row = row.model_copy(update={"chance": chance})
    return row.model_copy(update={"sentence": _sentence(row, kind=measured.metric.kind)})


def as_information(measured: Measured, confidence: float) -> Comparison:
    """A metric that the rule does not ask for."""
    return _row(measured, "info", effect_of(measured.gains, confidence), "info")


def over_sentence(limit: float, chance: Chance) -> str:
    """How many prompts lie over a limit that was measured, and what that says."""
    most = min(chance.allowed, chance.prompts)
    told = (
        f"{chance.over} of {chance.prompts} prompts over {number(limit)}, which is what"
        f" {chance.clips} held-out clips reach; chance allows {most}"
    )
    if chance.allowed < chance.prompts:
        return told
    return f"{told}, so few clips can break nothing: declare a limit"


def number(value: float) -> str:
    """Four significant digits, as sentences and tables show them."""
    return f"{value:.4g}"


def signed(value: float) -> str:
    """Three significant digits with their sign."""
    return f"{value:+.3g}"


def bounds_of(effect: Effect) -> str:
    """The interval in words."""
    if effect.low is None or effect.high is None:
        return "no interval from a single unit"
    return f"{signed(effect.low)} to {signed(effect.high)}"


def _guard_result(effect: Effect, margin: float | None, *, two_sided: bool) -> Result:
    if margin is None:
        return "undecided"
    lost = -abs(effect.mean) if two_sided else effect.mean
    if lost < -margin:
        return "worse"
    if effect.low is None or effect.high is None:
        return "undecided"
    lowest = min(effect.low, -effect.high) if two_sided else effect.low
    return "not worse" if lowest > -margin else "undecided"


def _row(
    measured: Measured, role: Role, effect: Effect, result: Result, limit: float | None = None
) -> Comparison:
    metric, spread = measured.metric, statistics.mean_of(list(measured.gains.values()))
    row = Comparison(
        metric=metric.name,
        unit=metric.unit,
        direction=metric.direction,
        role=role,
        per=measured.per,
        base=_mean(measured.base) if measured.base else None,
        reference=_mean(measured.reference),
        candidate=_mean(measured.candidate),
        effect=effect,
        yardstick=measured.yardstick,
        limit=limit,
        result=result,
        sentence="",
        groups=measured.groups,
        detectable=None if spread is None else detectable_effect(spread, effect.confidence),
    )
    return row.model_copy(update={"sentence": _sentence(row, kind=metric.kind)})


def _sentence(row: Comparison, *, kind: str) -> str:
    effect = row.effect
    return (
        f"{row.label} ({row.role}, {row.unit}) {number(row.reference)} -> {number(row.candidate)}, "
        f"effect {signed(effect.mean)} ({bounds_of(effect)}) over {effect.units} {row.per}s"
        f"{f', {effect.won} won' if row.direction else ''}: {row.result}{_against(row, kind)}."
    )


def _under(row: Comparison, kind: str) -> str:
    if row.limit is None:
        return "; its limit is what held-out clips reach, which was not measured"
    if row.chance is not None:
        return f"; {over_sentence(row.limit, row.chance)}"
    return f"; no {'video' if kind == 'video' else 'prompt'} may exceed {number(row.limit)}"


def _against(row: Comparison, kind: str) -> str:
    if row.role == "ceiling":
        return _under(row, kind)
    if row.role != "guard":
        return ""
    if row.limit is None and kind == "video":
        return "; its margin is in seed SDs, which needs two seeds that differ"
    if row.limit is None:
        return f"; its margin is in SDs between {row.per}s of the reference, which are all equal"
    return f"; it may {'lose' if row.direction else 'change'} at most {number(row.limit)}"


def _mean(values: Values) -> float:
    return float(np.mean(list(statistics.by_unit(values).values())))
