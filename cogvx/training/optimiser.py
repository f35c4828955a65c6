"""The optimisers: which one, the rate of each update, and an update that can be left out."""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cogvx.errors import ConfigError
from cogvx.recipe_sections import TrainConfig

_BETAS = (0.9, 0.95)  # CogVideo finetune/schemas/args.py
_PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def require_optimiser(train: TrainConfig) -> None:
    """Refuse an optimiser whose package is not here, before anything is loaded.

    Raises:
        ConfigError: Naming the package.
    """
    package = _PACKAGES.get(train.optimiser)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f'train.optimiser = "{train.optimiser}" needs the package {package}, which is not '
            f'installed on this machine; run `pip install {package}`, or use "adamw"'
        )


def make_optimiser(parameters: Sequence[nn.Parameter], train: TrainConfig) -> Optimizer:
    """The recipe's optimiser over one group; the rate is set before every update.

    AdamW as CogVideo's own trainer sets it up, fused on a GPU; the other two with the same betas,
    and Prodigy with bias correction and the safeguard for a warm-up, which ours has.

    Raises:
        ConfigError: Its package is not installed.
    """
    require_optimiser(train)
    rate, decay = train.learning_rate, train.weight_decay
    if train.optimiser == "adamw":
        on_gpu = all(parameter.device.type == "cuda" for parameter in parameters)
        fused = True if on_gpu else None  # on a CPU torch's own choice, and so its bits
        return AdamW(parameters, lr=rate, betas=_BETAS, weight_decay=decay, fused=fused)
    library: Any = importlib.import_module(_PACKAGES[train.optimiser])
    optimiser: Optimizer
    if train.optimiser == "adamw8bit":
        optimiser = library.optim.AdamW8bit(parameters, lr=rate, betas=_BETAS, weight_decay=decay)
        return optimiser
    optimiser = library.Prodigy(
        parameters, lr=rate, betas=_BETAS, use_bias_correction=True, safeguard_warmup=True
    )
    for group in optimiser.param_groups:
        group["weight_decay"] = decay  # its constructor would print that there is one
    return optimiser


def lr_at(step: int, train: TrainConfig) -> float:
    """Learning rate of update `step`, counted from 0; Prodigy multiplies its own with it.

    With a warm-up the very first update has rate 0, as in the schedules that people compare with.

    Source: diffusers `get_scheduler`, names "constant_with_warmup", "cosine" and "linear".
    """
    warmup, steps = train.warmup_steps, train.steps
    if step < warmup:
        return train.learning_rate * (step / warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    factor = 1.0
    if train.lr_schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * progress))
    elif train.lr_schedule == "linear":
        factor = 1.0 - progress
    return train.learning_rate * max(0.0, factor)


def effective_rate(optimiser: Optimizer) -> float:
    """The rate of the last update, and for Prodigy what it found times that."""
    (group,) = optimiser.param_groups
    return float(group["lr"]) * float(group.get("d", 1.0))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Shorten the gradient of all parameters together to at most `max_norm`.

    Returns:
        Its norm before, on the device: reading it would wait for the GPU.
    """
    norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm


def step_if(optimiser: Optimizer, finite: Tensor) -> None:
    """Move the weights, unless `finite` is false: then nothing changes, not even a count of steps.

    Fused AdamW, which is AdamW on a GPU, takes the answer on the device, as it does from a
    GradScaler, so nobody waits for it. The others would not know what to do with it, but waiting
    costs nothing there: on a CPU there is nothing to wait for, 8-bit AdamW waits for the GPU after
    every tensor, and Prodigy reads two numbers of each.

    Args:
        optimiser: With the gradients in place.
        finite: One truth, on the device; the same in all processes.
    """
    if isinstance(optimiser, AdamW) and optimiser.defaults["fused"]:
        optimiser.found_inf = finite.logical_not().float()  # type: ignore[attr-defined]
        optimiser.step()
    elif finite.item():
        optimiser.step()
