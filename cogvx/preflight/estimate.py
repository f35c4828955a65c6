"""What training a recipe will take on a named GPU: memory, time, money; or why it cannot.

Memory and arithmetic follow from the base's configuration (see `memory` and `flops`). Time is
arithmetic over the share of the GPU's peak that is reached, which is assumed where nobody has
measured it; on a CPU no time is told, since no peak is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from cogvx.errors import Problem
from cogvx.preflight.devices import Device
from cogvx.preflight.fit import Fit, Machine, choose, misfits
from cogvx.preflight.flops import pass_flops
from cogvx.preflight.heldout import HeldoutCost, HeldoutWindows, passes, points
from cogvx.preflight.memory import GIB, PeakMemory
from cogvx.preflight.parameters import adapter_parameters, base_parameters
from cogvx.recipe import Recipe
from cogvx.recipe_sections import Checkpointing
from cogvx.variants import BaseFacts

UTILISATION = 0.45
"""Share of a GPU's peak that all arithmetic together is assumed to reach, what is computed again
included. Published times of 5b's generation are 0.37 of it on an H100 and 0.59 on an A100."""

_UNBOUNDED = 1 << 62


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Needs(_Document):
    """Peak memory of one process in GiB, by part; `cogvx.preflight.memory` says what they are."""

    base: float
    adapter: float
    activations: float
    block: float
    reserve: float
    total: float

    @classmethod
    def of(cls, peak: PeakMemory) -> "Needs":
        """Rounded to a hundredth."""
        parts = {name: round(value / GIB, 2) for name, value in vars(peak).items()}
        return cls(**parts, total=round(peak.gib, 2))


class SizeCost(_Document):
    """One size of clip: tokens of one, and what an update of all processes computes on them.

    `share` is that of the updates, which is that of the windows. `model_tflop` leaves out what is
    computed again.
    """

    size: str
    share: float
    tokens: int
    tflop: float
    model_tflop: float
    seconds: float | None


class Estimate(_Document):
    """What a run will take.

    `base_parameters` are frozen, `adapter_parameters` trained. `seconds_a_step` is the mean over
    the updates, as if each size had as many windows where nobody has counted them. Times are None
    without a GPU of known speed, `cost` without a price as well, and `epochs` without the number of
    clips. `utilisation` is the share of the peak that was reckoned with, and `is_measured` says
    whether it was seen on such a GPU before. Hours are those of training and of held-out
    measurements, without loading and compiling.
    """

    device: str | None
    checkpointing: Checkpointing
    base_weights: str
    compiles: bool
    base_parameters: int
    adapter_parameters: int
    sizes: tuple[SizeCost, ...]
    needs: Needs
    utilisation: float | None
    is_measured: bool
    seconds_a_step: float | None
    steps: int
    heldout: HeldoutCost
    epochs: float | None
    hours: float | None
    cost: float | None


@dataclass(frozen=True)
class Circumstances:
    """What an estimate knows besides the recipe and its base.

    Attributes:
        device: The GPU, or None: then memory is told as if there were enough, and no time.
        on_gpu: False on a CPU, which keeps other numbers.
        clips: Windows to train on, where they have been counted.
        by_size: The same, by size as it is written in a recipe.
        heldout: Windows held out, where they have been counted.
        price: Of one GPU for an hour, in whatever currency.
        utilisation: Share of the peak that was measured on such a GPU before.
    """

    device: Device | None = None
    on_gpu: bool = True
    clips: int | None = None
    by_size: Mapping[str, int] = field(default_factory=dict)
    heldout: HeldoutWindows | None = None
    price: float | None = None
    utilisation: float | None = None

    @property
    def machine(self) -> Machine:
        """The same, as presets are chosen by."""
        if self.device is None:
            name = "a GPU" if self.on_gpu else "this CPU"
            return Machine(name, self.on_gpu, _UNBOUNDED)
        return Machine(self.device.name, on_gpu=True, free=round(self.device.gib * GIB))


def estimate(
    recipe: Recipe, facts: BaseFacts, *, given: Circumstances, fit: Fit | None = None
) -> Estimate:
    """Reckon what a run will take.

    Args:
        recipe: What is trained.
        facts: Of its base.
        given: The GPU, the clips, the price.
        fit: What a trainer chose on its own machine; otherwise it is chosen as a trainer would.

    Raises:
        ConfigError: It cannot run there; `device_problems` says so beforehand.
    """
    fit = fit or choose(recipe, facts, given.machine)
    peak = None if given.device is None else given.device.peak_flops(recipe.base.dtype)
    share = given.utilisation or UTILISATION
    shares = _shares(recipe, given.by_size)
    speed = None if peak is None else peak * share
    sizes = tuple(_size_cost(recipe, facts, fit, shares=shares, speed=speed))
    seconds = None
    if peak is not None:
        seconds = sum(size.share * (size.seconds or 0.0) for size in sizes)
    heldout = _heldout_cost(recipe, facts, sizes, given)
    hours = None
    if seconds is not None:
        hours = seconds * recipe.train.steps / 3600 / (1 - heldout.share)
    cost = None if hours is None or given.price is None else hours * given.price
    return Estimate(
        device=None if given.device is None else given.device.name,
        checkpointing=fit.checkpointing,
        base_weights=fit.base_weights,
        compiles=fit.compile,
        base_parameters=base_parameters(facts).total,
        adapter_parameters=adapter_parameters(facts, recipe.lora),
        sizes=sizes,
        needs=Needs.of(fit.needs),
        utilisation=None if peak is None else share,
        is_measured=peak is not None and given.utilisation is not None,
        seconds_a_step=seconds,
        steps=recipe.train.steps,
        heldout=heldout,
        epochs=epochs(recipe, given.clips) if given.clips else None,
        hours=hours,
        cost=None if cost is None else cost * recipe.train.processes,
    )


def device_problems(recipe: Recipe, facts: BaseFacts, device: Device) -> list[Problem]:
    """Why a recipe cannot be trained on a GPU, each with the smallest change that would do."""
    problems = []
    dtype = recipe.base.dtype
    if dtype == "bfloat16" and not device.bfloat16:
        wrong = f"is nothing that {device.name} multiplies"
        use = "use a GPU of 2020 or later"
        problems.append(Problem("base.dtype", dtype, wrong, use))
    compiled = recipe.compute.compile or recipe.compute.preset == "fast"
    if compiled and recipe.compute.stored_weights == "float8" and not device.float8:
        wrong = f"cannot be compiled for {device.name}, whose kernels read no 8-bit floats"
        use = 'use "int8", or compile = false'
        problems.append(Problem("compute.base_weights", "float8", wrong, use))
    return problems + misfits(recipe, facts, Circumstances(device).machine)


def epochs(recipe: Recipe, clips: int) -> float:
    """How often each of so many windows will be seen."""
    return recipe.train.steps * recipe.train.global_batch / clips


def _shares(recipe: Recipe, by_size: Mapping[str, int]) -> dict[str, float]:
    """What share of the updates is of each size."""
    names = [str(size) for size in recipe.video.sizes]
    windows = {name: by_size.get(name, 0) for name in names} if by_size else dict.fromkeys(names, 1)
    return {name: count / sum(windows.values()) for name, count in windows.items()}


def _heldout_cost(
    recipe: Recipe, facts: BaseFacts, sizes: tuple[SizeCost, ...], given: Circumstances
) -> HeldoutCost:
    """Sizes are taken to be as frequent among held-out windows as among the others."""
    windows = given.heldout or HeldoutWindows.expected(recipe, given.clips)
    forward = sum(
        cost.share
        * pass_flops(facts, recipe.lora, tokens=cost.tokens, clips=1, checkpointing="none").forward
        for cost in sizes
    )
    measuring = passes(recipe, windows) * forward
    a_step = sum(cost.share * cost.tflop for cost in sizes) * 1e12 / recipe.train.processes
    return HeldoutCost(
        points=points(recipe),
        curve=windows.curve,
        windows=windows.total,
        share=measuring / (measuring + recipe.train.steps * a_step),
    )


def _size_cost(
    recipe: Recipe,
    facts: BaseFacts,
    fit: Fit,
    *,
    shares: Mapping[str, float],
    speed: float | None,
) -> list[SizeCost]:
    """Of every size; `speed` is in FLOPs a second of one process, None where unknown."""
    train, costs = recipe.train, []
    for size in recipe.video.sizes:
        step = pass_flops(
            facts,
            recipe.lora,
            tokens=facts.tokens(size),
            clips=train.global_batch,
            checkpointing=fit.checkpointing,
        )
        costs.append(
            SizeCost(
                size=str(size),
                share=shares[str(size)],
                tokens=facts.tokens(size),
                tflop=step.total / 1e12,
                model_tflop=(step.total - step.recomputed) / 1e12,
                seconds=None if speed is None else step.total / (speed * train.processes),
            )
        )
    return costs
