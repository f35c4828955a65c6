"""How the work is fitted to a machine: the preset's wishes, the person's settings, what has room.

Settings that are written down win, and are held against the memory there is; what they leave open,
the preset decides. What cannot fit is refused before the base is loaded, with a change that fits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cogvx.errors import ConfigError, Problem
from cogvx.preflight.memory import GIB, PeakMemory, peak_memory
from cogvx.recipe import Recipe
from cogvx.recipe_sections import BaseWeights, Checkpointing
from cogvx.variants import BaseFacts

_SPARE = 0.9  # of the memory, for keeping everything: what an estimate misses grows with it
_ORDER: tuple[Checkpointing, ...] = ("none", "selective", "full")
_MEANING = {
    "none": "nothing is computed again",
    "selective": "all but attention is computed again",
    "full": "every block is computed again",
}


@dataclass(frozen=True)
class Machine:
    """What one process has to work with.

    Attributes:
        name: As a person knows it.
        on_gpu: Whether it is a CUDA device.
        free: Bytes of memory that are free before the base is loaded.
        can_compile: Whether torch.compile finds a compiler there.
    """

    name: str
    on_gpu: bool
    free: int
    can_compile: bool = True


@dataclass(frozen=True)
class Fit:
    """How a run is fitted to its machine, and why."""

    checkpointing: Checkpointing
    compile: bool
    base_weights: BaseWeights
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"]
    prefetch: int
    needs: PeakMemory
    why: str

    def event(self) -> dict[str, Any]:
        """What the event `fit` says, plain values only."""
        return {
            "checkpointing": self.checkpointing,
            "compile": self.compile,
            "base_weights": self.base_weights,
            "attention": self.attention,
            "prefetch": self.prefetch,
            "needs_gib": round(self.needs.gib, 3),
            "why": self.why,
        }


def choose(recipe: Recipe, facts: BaseFacts, machine: Machine) -> Fit:
    """Decide how to run a recipe on a machine.

    "fast" keeps everything with a tenth of the memory to spare, else attention, else nothing;
    "balanced" begins with attention on a GPU, and on a CPU, where time is scarcer than memory, with
    everything; "small" keeps nothing. Only "fast" compiles, and only on a GPU.

    Raises:
        ConfigError: Nothing that the recipe allows has room, or it wants to compile and cannot.
    """
    found = misfits(recipe, facts, machine)
    if found:
        raise ConfigError("; ".join(str(problem) for problem in found))
    compute = recipe.compute
    needs = _needs_by_wish(recipe, facts, machine)
    chosen = _fitting(recipe, machine, needs)[0]
    return Fit(
        checkpointing=chosen,
        compile=_compiles(recipe, machine),
        base_weights=compute.stored_weights,
        attention=compute.attention,
        prefetch=compute.prefetch,
        needs=needs[chosen],
        why=_why(recipe, machine, needs, chosen=chosen),
    )


def misfits(recipe: Recipe, facts: BaseFacts, machine: Machine) -> list[Problem]:
    """Why a recipe cannot run on a machine, each with the mildest change that would do."""
    found = []
    if recipe.compute.compile and not machine.can_compile:
        lacks = "triton" if machine.on_gpu else "a C++ compiler"
        wrong = f"needs {lacks}, which {machine.name} has not"
        found.append(Problem("compute.compile", True, wrong, "install it, or use false"))  # noqa: FBT003
    needs = _needs_by_wish(recipe, facts, machine)
    if not _fitting(recipe, machine, needs):
        least = list(needs.values())[-1]
        found.append(_refusal(recipe, facts, machine, least=least))
    return found


def _needs_by_wish(
    recipe: Recipe, facts: BaseFacts, machine: Machine
) -> dict[Checkpointing, PeakMemory]:
    """Memory of each thing that may be kept, the fastest first."""
    return {wish: _needs(recipe, facts, wish, machine) for wish in _wishes(recipe, machine)}


def _fitting(
    recipe: Recipe, machine: Machine, needs: dict[Checkpointing, PeakMemory]
) -> list[Checkpointing]:
    return [wish for wish, need in needs.items() if need.total <= _room(wish, recipe, machine)]


def _wishes(recipe: Recipe, machine: Machine) -> tuple[Checkpointing, ...]:
    """What may be kept, the fastest first."""
    compute = recipe.compute
    if compute.checkpointing is not None:
        return (compute.checkpointing,)
    if compute.preset == "small":
        return ("full",)
    keeps_all = compute.preset == "fast" or not machine.on_gpu
    return _ORDER if keeps_all else _ORDER[1:]


def _needs(
    recipe: Recipe, facts: BaseFacts, checkpointing: Checkpointing, machine: Machine
) -> PeakMemory:
    return peak_memory(
        recipe,
        facts,
        checkpointing=checkpointing,
        base_weights=recipe.compute.stored_weights,
        on_gpu=machine.on_gpu,
    )


def _room(checkpointing: Checkpointing, recipe: Recipe, machine: Machine) -> float:
    """Bytes that may be used; a person who asked for it by name needs no spare."""
    asked = recipe.compute.checkpointing is not None
    return machine.free * (_SPARE if checkpointing == "none" and not asked else 1.0)


def _compiles(recipe: Recipe, machine: Machine) -> bool:
    compute = recipe.compute
    if compute.compile is None:
        return compute.preset == "fast" and machine.on_gpu and machine.can_compile
    return compute.compile


def _why(
    recipe: Recipe,
    machine: Machine,
    needs: dict[Checkpointing, PeakMemory],
    *,
    chosen: Checkpointing,
) -> str:
    compute, free = recipe.compute, machine.free / GIB
    source = "the recipe says so"
    if compute.checkpointing is None:
        source = f'preset "{compute.preset}"'
        passed = [f"{wish} {need.gib:.1f}" for wish, need in needs.items() if wish != chosen]
        tried = list(needs)[: list(needs).index(chosen)]
        if tried:
            source += "; no room for " + ", ".join(passed[: len(tried)]) + " GiB"
    weights = compute.stored_weights
    stored = "" if weights == "as_is" else f", the base is stored in {weights}"
    return (
        f"{_MEANING[chosen]}{stored}: {needs[chosen].gib:.1f} of {free:.1f} GiB free on "
        f"{machine.name} ({source})"
    )


def _refusal(recipe: Recipe, facts: BaseFacts, machine: Machine, *, least: PeakMemory) -> Problem:
    """What does not fit, and the mildest change that does."""
    compute = recipe.compute
    size = max(recipe.video.sizes, key=facts.tokens)
    needed = (
        f"takes {least.gib:.1f} GiB at {size} and micro-batch {recipe.train.micro_batch}, of which "
        f"{machine.name} has {machine.free / GIB:.1f} free"
    )
    where: tuple[str, object] = ("compute.preset", compute.preset)
    if compute.checkpointing is not None:
        where = ("compute.checkpointing", compute.checkpointing)
    if compute.attention == "math":
        fused = _changed(recipe, "compute", attention="auto")
        if _fitting(fused, machine, _needs_by_wish(fused, facts, machine)):
            return Problem("compute.attention", "math", needed, 'use "auto"')
    for change, changed in _changes(recipe):
        if _needs(changed, facts, "full", machine).total <= machine.free:
            return Problem(*where, needed, f"use {change}")
    use = "use a smaller video or lora.rank, or another machine: no setting makes it fit"
    return Problem(*where, needed, use)


def _changes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Changes that save memory, the mildest first; all but the first come on top of it."""
    full = _changed(recipe, "compute", checkpointing="full")
    yield 'compute.checkpointing = "full"', full
    said = "" if recipe.compute.checkpointing in (None, "full") else ' and checkpointing = "full"'
    single = _changed(full, "train", micro_batch=1)
    if recipe.train.micro_batch > 1:
        yield f"train.micro_batch = 1{said}", single
    if recipe.compute.stored_weights == "as_is":
        with_one = " and train.micro_batch = 1" if recipe.train.micro_batch > 1 else ""
        stored = _changed(single, "compute", base_weights="float8")
        yield f'compute.base_weights = "float8"{with_one}{said}', stored


def _changed(recipe: Recipe, section: str, **settings: object) -> Recipe:
    part = getattr(recipe, section).model_copy(update=settings)
    return recipe.model_copy(update={section: part})
