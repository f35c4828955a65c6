"""Estimates as people read them: short facts, one a line, and a table of GPUs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cogvx.errors import ConfigError, Problem
from cogvx.preflight.devices import COMMON, Device, named_device
from cogvx.preflight.estimate import (
    Circumstances,
    Estimate,
    device_problems,
    epochs,
    estimate,
)
from cogvx.recipe import Recipe
from cogvx.recipe_sections import ComputeConfig, Preset
from cogvx.variants import BaseFacts

Row = tuple[str, str]
PRESETS: tuple[Preset, ...] = ("fast", "balanced", "small")

_KEPT = {
    "none": "nothing computed again",
    "selective": "all but attention computed again",
    "full": "all computed again",
}


@dataclass(frozen=True)
class Line:
    """What one GPU can do, by preset; None where it does not fit."""

    device: Device
    presets: Mapping[Preset, Estimate | None]


def circumstances(gpu: str | None, *, price: float | None, clips: int | None) -> Circumstances:
    """What a person says on the command line.

    Raises:
        ConfigError: With everything that cannot be so.
    """
    device, problems = None, list[Problem]()
    try:
        device = None if gpu is None else named_device(gpu)
    except ConfigError as error:
        problems += error.problems
    if price is not None and not (math.isfinite(price) and price >= 0):
        problems.append(Problem("--price", price, "is no price", "use what a GPU costs an hour"))
    if price is not None and gpu is None:
        wrong = "is of a GPU that is not named"
        problems.append(Problem("--price", price, wrong, "name it, as --gpu H100"))
    if clips is not None and clips < 1:
        problems.append(Problem("--clips", clips, "is no number of clips", "use 1 or more"))
    if problems:
        raise ConfigError("options", problems)
    return Circumstances(device, price=price, clips=clips)


def estimate_rows(found: Estimate) -> list[Row]:
    """An estimate in a few lines."""
    needs = found.needs
    parts = (
        f"base {needs.base:.1f}, adapter {needs.adapter:.1f}, kept {needs.activations:.1f}, "
        f"one block {needs.block:.1f}, reserve {needs.reserve:.1f}"
    )
    stored = "" if found.base_weights == "as_is" else f", base in {found.base_weights}"
    compiled = ", compiled" if found.compiles else ""
    frozen, trained = found.base_parameters / 1e6, found.adapter_parameters / 1e6
    rows = [
        ("weights", f"{frozen:,.1f} M frozen, {trained:,.2f} M trained"),
        ("memory", f"{needs.total:.1f} GiB: {parts}"),
        ("way", f"{_KEPT[found.checkpointing]}{stored}{compiled}"),
    ]
    rows += [("a step", _size_text(found, index)) for index in range(len(found.sizes))]
    rows += [("run", run_text(found))] if run_text(found) else []
    return [*rows, ("held out", heldout_text(found))]


def run_text(found: Estimate) -> str:
    """How long and how dear, as far as it is known."""
    facts = []
    if found.seconds_a_step is not None:
        facts.append(f"{found.steps:,} steps of {seconds_text(found.seconds_a_step)}")
    if found.epochs is not None:
        facts.append(f"{_number(found.epochs)} epochs")
    if found.hours is not None:
        facts.append(f"{_number(found.hours)} hours")
    if found.cost is not None:
        facts.append(f"costs {_number(found.cost)}")
    if found.utilisation is not None:
        how = "as measured before" if found.is_measured else "assumed"
        facts.append(f"at {found.utilisation:.0%} of the peak, {how}")
    return ", ".join(facts)


def heldout_text(found: Estimate) -> str:
    """What share of the time held-out clips take, and why."""
    heldout = found.heldout
    if not heldout.windows:
        return "nothing"
    return (
        f"{heldout.share:.1%} of the time: {heldout.points:,} points over {heldout.curve:,} "
        f"windows, {heldout.windows:,} at the start and the end"
    )


def epochs_text(recipe: Recipe, clips: int) -> str:
    """How often each of so many clips will be seen."""
    return f"{_number(epochs(recipe, clips))} of {clips:,} clips"


def survey(recipe: Recipe, facts: BaseFacts, given: Circumstances) -> list[Line]:
    """What each of the common GPUs could do with a recipe, by preset alone."""
    return [_line(recipe, facts, replace(given, device=named_device(name))) for name in COMMON]


def seconds_text(seconds: float) -> str:
    """2.8 s, 0.012 s, 95 s."""
    return f"{_number(seconds)} s"


def step_text(found: Estimate) -> str:
    """Time of a step, or a dash where it is not known."""
    return "-" if found.seconds_a_step is None else seconds_text(found.seconds_a_step)


def _size_text(found: Estimate, index: int) -> str:
    size = found.sizes[index]
    time = "" if size.seconds is None else f", {seconds_text(size.seconds)}"
    return f"{size.size}: {size.tokens:,} tokens a clip, {size.tflop:,.4g} TFLOP{time}"


def _number(value: float) -> str:
    """Three digits where there are so few, whole numbers above."""
    if 100 <= value < 1e15:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _line(recipe: Recipe, facts: BaseFacts, given: Circumstances) -> Line:
    assert given.device is not None
    presets: dict[Preset, Estimate | None] = {}
    for preset in PRESETS:
        # the preset alone decides, whatever the recipe says besides
        changed = recipe.model_copy(update={"compute": ComputeConfig(preset=preset)})
        fits = not device_problems(changed, facts, given.device)
        presets[preset] = estimate(changed, facts, given=given) if fits else None
    return Line(given.device, presets)
