"""Looking at the machine, and loading the base the way that fits it."""

import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import CogVideoXTransformer3DModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cogvx.model.attention import require_attention
from cogvx.model.blocks import compile_blocks, recompute
from cogvx.model.load import load_transformer, torch_dtype
from cogvx.model.lora import attach_lora
from cogvx.model.quantise import StoredLinear, store_base
from cogvx.preflight.fit import Fit, Machine, choose
from cogvx.recipe import Recipe
from cogvx.variants import BaseFacts

_CGROUP = Path("/sys/fs/cgroup")
_COMPILERS = ("g++", "clang++", "c++")


def fit(recipe: Recipe, facts: BaseFacts, accelerator: Accelerator) -> Fit:
    """Decide how to run a recipe on the machine with the least memory of all processes.

    Raises:
        ConfigError: It cannot run there as the recipe wants it.
    """
    machine = probe(accelerator.device, processes=accelerator.num_processes)
    free = min(gather_object([machine.free]))
    chosen = choose(
        recipe,
        facts,
        Machine(machine.name, machine.on_gpu, free=free, can_compile=machine.can_compile),
    )
    require_attention(
        chosen.attention,
        head_dim=facts.head_dim,
        dtype=torch_dtype(recipe.base.dtype),
        device=accelerator.device,
    )
    return chosen


def load_fitted(
    base: Path, recipe: Recipe, fit: Fit, *, device: torch.device
) -> tuple[CogVideoXTransformer3DModel, tuple[nn.Parameter, ...]]:
    """Load the base and make it ready.

    Returns:
        The transformer on its device, and the adapter's parameters.

    Raises:
        ConfigError: The folder holds no transformer, or a target matches no module.
        IntegrityError: The weights are not all there.
    """
    transformer = load_transformer(base, dtype=recipe.base.dtype)
    return transformer, make_ready(transformer, recipe, fit, device=device)


def make_ready(
    transformer: CogVideoXTransformer3DModel, recipe: Recipe, fit: Fit, *, device: torch.device
) -> tuple[nn.Parameter, ...]:
    """Store the base as decided, attach a fresh adapter, choose what is computed again.

    Args:
        transformer: As it was loaded, on the CPU, so that a GPU never sees the larger form.
        recipe: Its adapter, and the sizes that will be met.
        fit: What was decided.
        device: Where to bring the transformer.

    Returns:
        The adapter's parameters.

    Raises:
        ConfigError: A target matches no module.
    """
    store_base(transformer, fit.base_weights)
    transformer.to(device)
    parameters = attach_lora(transformer, recipe.lora, seed=recipe.train.seed)
    _leave_out_of_exchange(transformer)
    recompute(transformer, fit.checkpointing)
    if fit.compile:
        compile_blocks(transformer, fit.checkpointing, sizes=len(recipe.video.sizes))
    return parameters


def probe(device: torch.device, *, processes: int = 1) -> Machine:
    """What one process has to itself; on a CPU, all of them share the memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        triton = torch.utils._triton.has_triton()  # noqa: SLF001 - torch itself asks so
        return Machine(torch.cuda.get_device_name(device), True, free, can_compile=triton)  # noqa: FBT003
    compiles = any(shutil.which(name) for name in _COMPILERS)
    return Machine("this CPU", False, _free_memory() // processes, can_compile=compiles)  # noqa: FBT003


def _leave_out_of_exchange(transformer: CogVideoXTransformer3DModel) -> None:
    """Keep 8-bit weights out of what processes send each other at the start.

    Each has them from the same files, and not every backend can send float8.
    """
    stored = [
        f"{name}.weight"
        for name, part in transformer.named_modules()
        if isinstance(part, StoredLinear)
    ]
    wrap: Any = DistributedDataParallel  # private in name only: torch has no other way
    wrap._set_params_and_buffers_to_ignore_for_model(transformer, stored)  # noqa: SLF001


def _free_memory() -> int:
    """Bytes of main memory that are available, inside a container too."""
    free = int(psutil.virtual_memory().available)
    limit = _CGROUP / "memory.max"
    if limit.is_file() and (allowed := limit.read_text().strip()).isdigit():
        # not memory.current, of which most may be files that the kernel gives up on demand
        used = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, max(0, int(allowed) - int(used["anon"])))
    return free
