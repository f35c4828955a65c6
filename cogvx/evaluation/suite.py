"""The suite: which prompts and seeds an adapter is judged on, and the rule that decides.

It is TOML, closed and frozen, and its digest names it. Size and frame rate are not here: they are
the recipe's. Margins belong to the suite, so that they are declared before any result is seen.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvx.data.captions import normalise_caption
from cogvx.digest import digest
from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.metrics import METRICS
from cogvx.section import SchemaVersion, Section, parse_section, read_toml
from cogvx.variants import TRAIN_TIMESTEPS, Sampler

Group = Literal["domain", "trigger_free", "off_domain", "train_caption"]

_FILE_SAFE = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_STEPS = tuple(n for n in range(1, TRAIN_TIMESTEPS + 1) if TRAIN_TIMESTEPS % n == 0)


class SamplingConfig(Section):
    """How every video of the suite is sampled, in every arm."""

    steps: int = Field(ge=1)
    """Denoising steps; must divide 1000."""
    guidance: float = Field(ge=1.0)
    """Classifier-free guidance; 1 is none and costs half."""
    sampler: Sampler
    """dpm, or ddim for 2b."""
    dynamic_guidance: bool = False
    """Raise the guidance over the steps, as the model's authors do with dpm."""
    negative_prompt: str = ""


class PromptConfig(Section):
    """One prompt. Results are joined on `id`, which also names files."""

    id: str = Field(pattern=_FILE_SAFE)
    prompt: str = Field(min_length=1)
    eval_text: str | None = Field(default=None, min_length=1)
    """What a text encoder with few tokens compares the video with, where it is not the prompt."""
    group: Group = "domain"
    """domain | trigger_free | off_domain | train_caption (only for measuring memorisation)."""


class GuardConfig(Section):
    """A metric that must not get worse by more than a margin."""

    metric: str
    margin: float | None = Field(default=None, gt=0)
    """In the metric's own unit; without it `margin_sd` holds."""
    margin_sd: float = Field(default=1.0, gt=0)
    """In within-prompt seed SDs of the reference."""


class CeilingConfig(Section):
    """A value that no single video may exceed."""

    metric: str
    limit: float


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


class Suite(Section):
    """Prompts, seeds, sampling and the rule that a verdict follows."""

    schema_version: SchemaVersion = 1
    name: str = Field(pattern=_FILE_SAFE)
    split: Literal["dev", "gate"]
    """dev: to choose checkpoints and strengths on. gate: to decide on; never choose on it."""
    sampling: SamplingConfig
    seeds: tuple[int, ...] = Field(min_length=1)
    prompts: tuple[PromptConfig, ...] = Field(min_length=1)
    gate: GateConfig

    @cached_property
    def digest(self) -> str:
        """The suite's identity; both arms of a comparison must carry the same one."""
        return digest(self)

    @property
    def videos(self) -> int:
        """Videos per arm."""
        return len(self.prompts) * len(self.seeds)


def load_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        ConfigError: With every problem of the document, not only the first.
    """
    document = read_toml(path)
    problems = suite_problems(document)
    if problems:
        raise ConfigError(str(path), problems)
    return Suite.model_validate(document)


def suite_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with a suite, part by part, so that no slip hides another."""
    problems: list[Problem] = []
    sampling, found = _parse(document, "sampling", SamplingConfig)
    problems += found + (_step_problems(sampling.steps) if sampling else [])
    prompts: list[PromptConfig] = []
    for index, entry in enumerate(_tables(document, "prompts")):
        prompt, found = parse_section(entry, PromptConfig, f"prompts[{index}]")
        problems += found
        if isinstance(prompt, PromptConfig):
            prompts.append(prompt)
    problems += _repeated("prompts", "id", [prompt.id for prompt in prompts])
    problems += _repeated("prompts", "prompt", [_same(prompt.prompt) for prompt in prompts])
    problems += [
        Problem(f'prompts["{prompt.id}"].prompt', prompt.prompt, "is empty", "describe a video")
        for prompt in prompts
        if not prompt.prompt.strip()
    ]
    problems += _gate_problems(document)
    # What was looked at above is replaced by something right, so that it is not reported twice.
    _, found = parse_section({**document, **_EXAMPLE}, Suite, "")
    problems += found
    problems += [Problem(name, None, "is missing") for name in _EXAMPLE if name not in document]
    return problems + _seed_problems(document.get("seeds"))


def overlap_problems(suite: Suite, captions: Iterable[str]) -> list[Problem]:
    """Prompts that the adapter was trained on, where the group does not say so.

    A prompt that is a training caption measures memory, not skill.
    """
    known = {_same(caption) for caption in captions}
    return [
        Problem(
            f'prompts["{prompt.id}"].prompt',
            prompt.prompt,
            "is a training caption",
            'rephrase it, or set group = "train_caption"',
        )
        for prompt in suite.prompts
        if prompt.group != "train_caption" and _same(prompt.prompt) in known
    ]


_EXAMPLE: dict[str, Any] = {
    "sampling": {"steps": 50, "guidance": 6.0, "sampler": "dpm"},
    "prompts": ({"id": "a", "prompt": "a"},),
    "gate": {"primaries": ("heldout_loss",)},
}


def _parse(
    document: Mapping[str, Any], name: str, kind: type[SamplingConfig]
) -> tuple[SamplingConfig | None, list[Problem]]:
    if name not in document:
        return None, []
    section, problems = parse_section(document[name], kind, name)
    return (section if isinstance(section, SamplingConfig) else None), problems


def _tables(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name, [])
    return list(found) if isinstance(found, list | tuple) else [found]


def _step_problems(steps: int) -> list[Problem]:
    if steps in _STEPS:
        return []
    lower = [n for n in _STEPS if n < steps][-2:]
    higher = [n for n in _STEPS if n > steps][:2]
    *first, last = [str(n) for n in lower + higher]
    use = f"use {', '.join(first)} or {last}" if first else f"use {last}"
    wrong = f"does not divide {TRAIN_TIMESTEPS}, so the sampler's steps would not meet"
    return [Problem("sampling.steps", steps, wrong, use)]


def _gate_problems(document: Mapping[str, Any]) -> list[Problem]:
    if "gate" not in document:
        return []
    section, problems = parse_section(document["gate"], GateConfig, "gate")
    if not isinstance(section, GateConfig):
        return problems
    parts = {
        "primaries": list(section.primaries),
        "guards": [guard.metric for guard in section.guards],
        "ceilings": [ceiling.metric for ceiling in section.ceilings],
    }
    for part, names in parts.items():
        for index, name in enumerate(names):
            where = f"gate.{part}[{index}]" + ("" if part == "primaries" else ".metric")
            problems += _metric_problems(where, name, part)
        problems += _repeated(f"gate.{part}", "metric", names)
    both = sorted(set(parts["primaries"]) & set(parts["guards"]))
    return problems + [
        Problem("gate.guards", name, "is a primary as well", "keep it in one of the two")
        for name in both
    ]


def _metric_problems(where: str, name: str, part: str) -> list[Problem]:
    metric = METRICS.get(name)
    if metric is None:
        closest = difflib.get_close_matches(name, METRICS, n=1)
        use = f'closest: "{closest[0]}"' if closest else "known: " + ", ".join(METRICS)
        return [Problem(where, name, "is no metric", use)]
    if part == "primaries" and metric.direction == 0:
        known = ", ".join(other.name for other in METRICS.values() if other.direction)
        wrong = "has no better side, so it cannot be a primary"
        return [Problem(where, name, wrong, f"guard it, or use one of: {known}")]
    if part == "ceilings" and metric.kind != "video":
        return [Problem(where, name, "is not measured on videos", "guard it instead")]
    return []


def _seed_problems(seeds: object) -> list[Problem]:
    if not isinstance(seeds, list | tuple):
        return []
    negative = [seed for seed in seeds if isinstance(seed, int) and not 0 <= seed < 2**31]
    return _repeated("seeds", "", [str(seed) for seed in seeds]) + [
        Problem("seeds", seed, "is not a seed", "use 0 to 2147483647") for seed in negative
    ]


def _repeated(where: str, key: str, values: Iterable[str]) -> list[Problem]:
    counts = Counter(values)
    place = f"{where}.{key}" if key else where
    return [
        Problem(place, value, f"stands there {count} times", "use it once")
        for value, count in counts.items()
        if count > 1
    ]


def _same(text: str) -> str:
    return normalise_caption(text).casefold()
