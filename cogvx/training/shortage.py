"""A GPU that runs out of memory while it trains: what would help, the mildest change first.

What cannot fit by the estimate is refused before anything is loaded; this is for what was closer
than the estimate, or for a GPU that others use too.
"""

import torch

from cogvx.errors import ConfigError, Problem
from cogvx.preflight.fit import Fit
from cogvx.recipe import Recipe

_GIB = 2**30
# What is said where torch's own allocator was not asked: by a library's workspace, by the driver,
# by the allocator of the CPU.
_PHRASES = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
)


def is_shortage(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, in one of the words that torch has for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        phrase in str(error) for phrase in _PHRASES
    )


def out_of_memory(
    recipe: Recipe, fit: Fit | None, device: torch.device, error: RuntimeError
) -> ConfigError:
    """The error to end with; it names the settings that are not used yet and would save memory.

    Args:
        recipe: As it was run.
        fit: What was chosen where the recipe leaves it open; None when it came to that late.
        device: Where it happened.
        error: Such that `is_shortage`; the first two sentences of its first line are kept.
    """
    helps = _unused(recipe, fit)
    told = ". ".join(str(error).partition("\n")[0].split(". ")[:2])
    subject = f"{_where(device)} ran out of memory ({told})"
    if not helps:
        return ConfigError(
            f"{subject}, with every setting that saves memory in use; use fewer frames, a smaller "
            "size, a smaller lora.rank, or a larger GPU"
        )
    return ConfigError(f"{subject}; one of these helps, the first costs least", helps)


def _unused(recipe: Recipe, fit: Fit | None) -> list[Problem]:
    train, compute = recipe.train, recipe.compute
    checkpointing = fit.checkpointing if fit is not None else compute.checkpointing
    found = []
    if checkpointing == "none":
        use = 'use "selective", or "full", which is slower and saves most'
        found.append(Problem("compute.checkpointing", checkpointing, "keeps everything", use))
    elif checkpointing == "selective":
        use = 'use "full"'
        found.append(Problem("compute.checkpointing", checkpointing, "keeps attention", use))
    if compute.stored_weights == "as_is":
        use = 'use "float8", which halves it; that is another run, from step 0'
        found.append(Problem("compute.base_weights", "as_is", "keeps the base whole", use))
    if train.micro_batch > 1:
        less = max(n for n in range(1, train.micro_batch) if not train.micro_batch % n)
        use = f"use {less}; train.global_batch stays, and so does what is learned"
        found.append(
            Problem("train.micro_batch", train.micro_batch, "clips are in memory at once", use)
        )
    if compute.preset != "small" and None in (compute.checkpointing, compute.base_weights):
        use = 'use "small", which saves wherever the recipe does not say otherwise'
        found.append(Problem("compute.preset", compute.preset, "prefers speed", use))
    return found


def _where(device: torch.device) -> str:
    if device.type != "cuda":
        return "this machine"
    total = torch.cuda.get_device_properties(device).total_memory / _GIB
    peak = torch.cuda.max_memory_reserved(device) / _GIB
    name = torch.cuda.get_device_name(device)
    return f"{name}, after a peak of {peak:.1f} of its {total:.1f} GiB,"
