"""A/A: the base judged against itself with other seeds, to learn how often luck is promoted.

Each run is an evaluation of its own: both arms are the base, on seeds that no other run and no
suite has, and on held-out losses with noise of their own. What is promoted here was promoted by
luck alone, and how videos scatter here is what margins in seed SDs are made of.

The screen is not applied: of two equal arms it stops the one with the higher loss, so half of all
runs would end before a video, and the gate would look twice as careful as it is. Runs that it would
have stopped are counted beside.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import scipy  # its parts load on first use
from pydantic import BaseModel, ConfigDict

from cogvx.evaluation.compare import Values
from cogvx.evaluation.documents import ArmResult, Outcome, Verdict
from cogvx.evaluation.looks import more_seeds
from cogvx.evaluation.statistics import by_unit, grouped
from cogvx.evaluation.suite import Suite
from cogvx.metrics.registry import metrics

_FIRST_SEED = 1_000_000_000  # far from those that people choose
_CONFIDENCE = 0.95


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Document):
    """Squared deviations from the mean of each unit, and their degrees of freedom."""

    squares: float
    freedom: int


class AaRun(_Document):
    """One run: its verdicts, look after look, and how its videos scatter by metric.

    `of` names what was compared, so that runs of another suite are not counted with it.
    """

    of: str
    run: int
    verdicts: tuple[Verdict, ...]
    stopped_by_screen: bool
    spreads: dict[str, Spread]

    @property
    def outcome(self) -> Outcome:
        """What the last look said."""
        return self.verdicts[-1].outcome


class Share(_Document):
    """How many of the runs, and where their true share lies in 95 of 100 such experiments."""

    count: int
    runs: int
    low: float
    high: float


class Scatter(_Document):
    """A metric's seed SD, how well it is known, and the margins that guards make of it.

    `error` is the relative standard error; `margins` are the medians over runs by guard.
    """

    metric: str
    unit: str
    seed_sd: float
    error: float
    margins: dict[str, float]


class AaReport(_Document):
    """What all runs tell together."""

    runs: int
    outcomes: dict[Outcome, int]
    at_first_look: dict[Outcome, int]
    second_looks: int
    false_promotions: Share
    stopped_by_screen: Share
    detectable: float | None
    scatters: tuple[Scatter, ...]


def seeds_of_side(suite: Suite, run: int, side: Literal[0, 1]) -> dict[int, int]:
    """What stands for each seed of a suite, its second look's included, on one side of a run."""
    wide = more_seeds(suite)
    seeds = tuple(dict.fromkeys([*wide.seeds, *wide.all_seeds]))
    first = _FIRST_SEED + (2 * run + side) * len(seeds)
    return {seed: first + place for place, seed in enumerate(seeds)}


def with_seeds(suite: Suite, seeds: Mapping[int, int]) -> Suite:
    """The suite with other seeds in the place of its own."""
    prompts = tuple(
        prompt
        if prompt.seeds is None
        else prompt.model_copy(update={"seeds": tuple(seeds[seed] for seed in prompt.seeds)})
        for prompt in suite.prompts
    )
    parts = {name: getattr(suite, name) for name in Suite.model_fields}
    return Suite(
        **{**parts, "seeds": tuple(seeds[seed] for seed in suite.seeds), "prompts": prompts}
    )


def as_if_under(
    suite: Suite, result: ArmResult, seeds: Mapping[int, int], *, name: str
) -> ArmResult:
    """An arm measured under other seeds, told as if under the suite's, so that arms can be paired.

    Pairs share nothing then, and scatter more than those of an evaluation, which share their noise.
    """
    back = {other: seed for seed, other in seeds.items()}
    return result.model_copy(
        update={
            "name": name,
            "suite": suite.digest,
            "videos": tuple(
                video.model_copy(update={"seed": back[video.seed]}) for video in result.videos
            ),
            "neighbours": tuple(
                near.model_copy(update={"seed": back[near.seed]}) for near in result.neighbours
            ),
        }
    )


def spreads_of(arms: Sequence[ArmResult]) -> dict[str, Spread]:
    """How each metric scatters inside a prompt, or a clip, over the seeds or draws of both arms."""
    found = {}
    for name, metric in metrics().items():
        repeats: dict[tuple[str, int], float] = {}
        for number, arm in enumerate(arms):
            values: Values = arm.losses() if metric.kind == "heldout" else arm.values(name)
            if metric.kind != "video":  # what has no seeds is repeated once an arm
                values = {(unit, 0): mean for unit, mean in by_unit(values).items()}
            repeats |= {
                (unit, len(arms) * repeat + number): value
                for (unit, repeat), value in values.items()
            }
        parts = [np.asarray(unit) for unit in grouped(repeats).values()]
        freedom = sum(len(part) - 1 for part in parts)
        if freedom:
            squares = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
            found[name] = Spread(squares=squares, freedom=freedom)
    return found


def report_on(runs: Sequence[AaRun]) -> AaReport:
    """Count what came of the runs, at least one."""
    last = Counter(run.outcome for run in runs)
    detectable = [
        run.verdicts[0].detectable for run in runs if run.verdicts[0].detectable is not None
    ]
    return AaReport(
        runs=len(runs),
        outcomes=dict(last),
        at_first_look=dict(Counter(run.verdicts[0].outcome for run in runs)),
        second_looks=sum(len(run.verdicts) > 1 for run in runs),
        false_promotions=share_of(last["PROMOTE"], len(runs)),
        stopped_by_screen=share_of(sum(run.stopped_by_screen for run in runs), len(runs)),
        detectable=float(np.median(detectable)) if detectable else None,
        scatters=tuple(_scatters(runs)),
    )


def share_of(count: int, runs: int) -> Share:
    """A share and its exact interval.

    Source: Clopper and Pearson 1934, by `scipy.stats.binomtest`.
    """
    found = scipy.stats.binomtest(count, runs).proportion_ci(_CONFIDENCE, method="exact")
    return Share(count=count, runs=runs, low=float(found.low), high=float(found.high))


def _scatters(runs: Sequence[AaRun]) -> list[Scatter]:
    scatters = []
    for name, metric in metrics().items():
        parts = [run.spreads[name] for run in runs if name in run.spreads]
        if not parts:
            continue
        freedom = sum(part.freedom for part in parts)
        scatters.append(
            Scatter(
                metric=name,
                unit=metric.unit,
                seed_sd=math.sqrt(sum(part.squares for part in parts) / freedom),
                error=1.0 / math.sqrt(2 * freedom),
                margins=_margins(name, runs),
            )
        )
    return scatters


def _margins(metric: str, runs: Sequence[AaRun]) -> dict[str, float]:
    """Median over runs of what each guard of a metric let it lose."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for row in run.verdicts[0].comparisons:
            if row.metric == metric and row.role == "guard" and row.limit is not None:
                found.setdefault(row.label, []).append(row.limit)
    return {label: float(np.median(limits)) for label, limits in found.items()}
