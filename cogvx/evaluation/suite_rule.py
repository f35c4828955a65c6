"""The rule as a suite declares it: primaries, guards, ceilings, and over which prompts each is."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field

from cogvx.errors import Problem
from cogvx.metrics.registry import metrics
from cogvx.metrics.relative import BASE_DISTANCE, BASE_DRIFT
from cogvx.section import Section, parse_section

Group = Literal["domain", "trigger_free", "off_domain", "train_caption"]
GROUPS: tuple[Group, ...] = get_args(Group)
PRIMARY_GROUPS: tuple[Group, ...] = ("domain",)
"""What an adapter is for: primaries of videos count over these prompts alone."""
AWAY: tuple[Group, ...] = ("trigger_free", "off_domain")
"""What an adapter should leave as the base draws it; departures from the base are measured here."""

_ONLY_AWAY = (BASE_DRIFT, BASE_DISTANCE)


class GuardConfig(Section):
    """A metric that must not get worse by more than a margin."""

    metric: str
    margin: float | None = Field(default=None, gt=0)
    """In the metric's own unit; without it `margin_sd` holds."""
    margin_sd: float = Field(default=1.0, gt=0)
    """In yardsticks of the reference: seed SDs for videos, else SDs between prompts or clips."""
    groups: tuple[Group, ...] | None = Field(default=None, min_length=1)
    """Only over prompts of these groups; else over all but train_caption."""

    @property
    def over(self) -> tuple[Group, ...]:
        """The groups whose prompts are guarded."""
        return self.groups or tuple(group for group in GROUPS if group != "train_caption")


class CeilingConfig(Section):
    """A value that no single video may exceed, or no more of them than chance allows."""

    metric: str
    limit: float | None = None
    """No single video may exceed it; without one it is the 99th percentile of held-out clips, and
    broken by more prompts than chance allows."""
    groups: tuple[Group, ...] | None = Field(default=None, min_length=1)
    """Only over prompts of these groups; else over all."""

    @property
    def over(self) -> tuple[Group, ...]:
        """The groups no video of which may exceed the limit."""
        return self.groups or GROUPS


class GateConfig(Section):
    """The rule, declared in advance. Confidences are of one-sided bounds."""

    primaries: tuple[str, ...] = Field(min_length=1)
    """Metrics that make up the one composite whose bound must lie above zero."""
    guards: tuple[GuardConfig, ...] = ()
    ceilings: tuple[CeilingConfig, ...] = ()
    confidence: float = Field(default=0.975, gt=0.5, lt=1.0)
    """Of the composite's bound: 0.975 promotes an equal adapter once in forty."""
    guard_confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Of each guard's bound. All guards must hold, so no correction for their number is due."""
    screen: bool = True
    """Stop before any video where the held-out loss is not below the base's, or is proved to be
    above the champion's."""
    second_look: bool = True
    """After a HOLD on videos add two seeds to each prompt, once, and judge all of it with half the
    error: 0.9875 for 0.975."""


def gate_problems(
    document: Mapping[str, Any], prompts: Mapping[Group, int] | None
) -> list[Problem]:
    """Everything that is wrong with the section `gate` of a suite's document.

    `prompts` are how many each group has; None where that is not known, as some are faulty.
    """
    if "gate" not in document:
        return []
    gate, problems = parse_section(document["gate"], GateConfig, "gate")
    if not isinstance(gate, GateConfig):
        return problems
    for index, name in enumerate(gate.primaries):
        found = _metric_problems(f"gate.primaries[{index}]", name, "primaries")
        problems += found or _few(f"gate.primaries[{index}]", name, PRIMARY_GROUPS, prompts)
    lines: list[tuple[str, GuardConfig | CeilingConfig]] = [
        *((f"gate.guards[{index}]", guard) for index, guard in enumerate(gate.guards)),
        *((f"gate.ceilings[{index}]", ceiling) for index, ceiling in enumerate(gate.ceilings)),
    ]
    for where, line in lines:
        problems += _line_problems(where, line, prompts)
    problems += _repeated("gate.primaries", gate.primaries)
    problems += _repeated_lines("gate.guards", gate.guards)
    problems += _repeated_lines("gate.ceilings", gate.ceilings)
    return problems + [
        Problem("gate.guards", guard.metric, "is a primary as well", _APART)
        for guard in gate.guards
        if guard.metric in gate.primaries
        and (_kind(guard.metric) == "heldout" or set(guard.over) & set(PRIMARY_GROUPS))
    ]


_APART = "keep it in one of the two, or guard it on other groups"


def _line_problems(
    where: str, line: GuardConfig | CeilingConfig, prompts: Mapping[Group, int] | None
) -> list[Problem]:
    part = "guards" if isinstance(line, GuardConfig) else "ceilings"
    problems = _metric_problems(f"{where}.metric", line.metric, part)
    if problems:
        return problems
    if line.groups is not None and _kind(line.metric) == "heldout":
        wrong = "is of prompts, and the metric is measured on held-out clips"
        return [Problem(f"{where}.groups", list(line.groups), wrong, "remove it")]
    problems = _repeated(f"{where}.groups", line.groups or ())
    least = 2 if isinstance(line, GuardConfig) else 1
    return problems or _few(f"{where}.metric", line.metric, line.over, prompts, least=least)


def _few(
    where: str,
    name: str,
    groups: Sequence[Group],
    prompts: Mapping[Group, int] | None,
    *,
    least: int = 2,
) -> list[Problem]:
    """Where too few prompts are left for an interval, so that nothing could ever be decided."""
    if prompts is None or _kind(name) == "heldout":
        return []
    over = [group for group in groups if name not in _ONLY_AWAY or group in AWAY]
    count = sum(prompts[group] for group in over)
    if count >= least:
        return []
    of = f"prompts of {', '.join(over)}" if over else f"prompts of {', '.join(AWAY)} alone"
    wrong = f"is measured on {of}, of which there are {count if over else 0}"
    return [Problem(where, name, wrong, f"give the suite {least} or more, or remove it")]


def _metric_problems(where: str, name: str, part: str) -> list[Problem]:
    known_metrics = metrics()
    metric = known_metrics.get(name)
    if metric is None:
        closest = difflib.get_close_matches(name, known_metrics, n=1)
        use = f'closest: "{closest[0]}"' if closest else "known: " + ", ".join(known_metrics)
        return [Problem(where, name, "is no metric", use)]
    if part == "primaries" and metric.direction == 0:
        known = ", ".join(other.name for other in known_metrics.values() if other.direction)
        wrong = "has no better side, so it cannot be a primary"
        return [Problem(where, name, wrong, f"guard it, or use one of: {known}")]
    if part == "ceilings" and metric.kind == "heldout":
        return [Problem(where, name, "is not measured on videos", "guard it instead")]
    return []


def _kind(name: str) -> str | None:
    metric = metrics().get(name)
    return None if metric is None else metric.kind


def _repeated(where: str, values: Iterable[str]) -> list[Problem]:
    return [
        Problem(f"{where}", value, f"stands there {count} times", "use it once")
        for value, count in Counter(values).items()
        if count > 1
    ]


def _repeated_lines(
    where: str, lines: Sequence[GuardConfig] | Sequence[CeilingConfig]
) -> list[Problem]:
    """One metric over the same groups twice; over others it is another line of the rule."""
    counts = Counter((line.metric, frozenset(line.over)) for line in lines)
    return [
        Problem(f"{where}.metric", metric, f"stands there {count} times", "use it once")
        for (metric, _), count in counts.items()
        if count > 1
    ]
