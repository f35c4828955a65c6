"""AdamW over the adapter: the learning rate of each update, and a state that needs no pickle."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from cogvx.errors import IntegrityError
from cogvx.recipe_sections import TrainConfig

_BETAS = (0.9, 0.95)  # CogVideo finetune/schemas/args.py
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


def make_optimiser(parameters: Sequence[nn.Parameter], train: TrainConfig) -> AdamW:
    """AdamW as CogVideo's own trainer sets it up; the rate is set before every update."""
    return AdamW(parameters, lr=train.learning_rate, betas=_BETAS, weight_decay=train.weight_decay)


def lr_at(step: int, train: TrainConfig) -> float:
    """Learning rate of update `step`, counted from 0.

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


def optimiser_state(optimiser: AdamW, names: Sequence[str]) -> dict[str, Tensor]:
    """Adam's moments as named tensors on the CPU: `<parameter>/exp_avg` and so on.

    Args:
        optimiser: Of one group.
        names: Of its parameters, in their order.
    """
    (group,) = optimiser.param_groups
    return {
        f"{name}/{slot}": optimiser.state[parameter][slot].detach().cpu().clone()
        for name, parameter in zip(names, group["params"], strict=True)
        if parameter in optimiser.state
        for slot in _SLOTS
    }


def set_optimiser_state(
    optimiser: AdamW, names: Sequence[str], state: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_state` gave.

    Raises:
        IntegrityError: A tensor is missing, unexpected or of another shape; nothing is changed.
    """
    (group,) = optimiser.param_groups
    parameters = dict(zip(names, group["params"], strict=True))
    wanted = {f"{name}/{slot}" for name in parameters for slot in _SLOTS}
    if wanted != state.keys():
        odd = sorted(wanted ^ state.keys())
        raise IntegrityError(
            f"the optimiser's state does not fit: {odd[0]} and {len(odd) - 1} more"
        )
    for name, parameter in parameters.items():
        if state[f"{name}/exp_avg"].shape != parameter.shape:
            raise IntegrityError(f"the optimiser's state does not fit: {name} has another shape")
    for name, parameter in parameters.items():
        slots = {slot: state[f"{name}/{slot}"].clone() for slot in _SLOTS}
        moments = {slot: slots[slot].to(parameter.device) for slot in _SLOTS[1:]}
        # AdamW keeps the count on the CPU, where reading it costs no wait
        optimiser.state[parameter] = {"step": slots["step"], **moments}


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Shorten the gradient of all parameters together to at most `max_norm`.

    Returns:
        Its norm before, on the device: reading it would wait for the GPU.
    """
    norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm
