"""The state of any of the optimisers as named tensors, put back bit for bit: nothing is pickled.

`<parameter>/<slot>` is what the optimiser keeps for a parameter, `group/<name>` what Prodigy keeps
for all of them. A Python number is a scalar of 64 bits, which no tensor of theirs is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cogvx.errors import IntegrityError

_GROUP = "group"
# Prodigy's estimate of the rate; the last two only after its first update.
_ESTIMATES = ("d", "d_max", "d_numerator", "k", "d_denom", "d_hat")
_NUMBERS = {int: torch.int64, float: torch.float64}

Shape = tuple[int, ...]


def optimiser_state(optimiser: Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of everything that changes, on the CPU; nothing for a parameter never updated.

    Args:
        optimiser: Of one group.
        names: Of its parameters, in their order.
    """
    (group,) = optimiser.param_groups
    kept = {f"{_GROUP}/{name}": group[name] for name in _ESTIMATES if name in group}
    for name, parameter in zip(names, group["params"], strict=True):
        slots = optimiser.state.get(parameter, {})
        kept |= {f"{name}/{slot}": value for slot, value in slots.items()}
    return {name: _as_tensor(value) for name, value in kept.items()}


def set_optimiser_state(
    optimiser: Optimizer, names: Sequence[str], state: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_state` gave, into a fresh optimiser of the same kind.

    Raises:
        IntegrityError: A tensor is missing, unexpected or of another shape; nothing is changed.
    """
    (group,) = optimiser.param_groups
    parameters = dict(zip(names, group["params"], strict=True))
    of_group = {name: value for name, value in state.items() if name.startswith(f"{_GROUP}/")}
    of_parameters = {name: value for name, value in state.items() if name not in of_group}
    _require_fit(optimiser, parameters, of_parameters)
    fresh = {f"{_GROUP}/{name}" for name in _ESTIMATES if name in group}
    if not fresh <= of_group.keys() or len(of_group) > (len(_ESTIMATES) if fresh else 0):
        raise IntegrityError("the optimiser's state does not fit: it is another optimiser's")
    for name, value in of_group.items():
        group[name.removeprefix(f"{_GROUP}/")] = _as_value(value, value.device)
    for name, value in of_parameters.items():
        parameter, slot = parameters[name.rpartition("/")[0]], name.rpartition("/")[2]
        # AdamW counts on the CPU unless it is fused, where reading the count costs no wait
        counted = slot == "step" and not group.get("fused")
        device = value.device if counted else parameter.device
        optimiser.state[parameter][slot] = _as_value(value, device)


def _require_fit(
    optimiser: Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    if not state:
        return  # no update was done yet, or each one was skipped
    shapes = {
        f"{name}/{slot}": allowed
        for name, parameter in parameters.items()
        for slot, allowed in _shapes(optimiser, parameter).items()
    }
    if shapes.keys() != state.keys():
        odd = sorted(shapes.keys() ^ state.keys())
        raise IntegrityError(
            f"the optimiser's state does not fit: {odd[0]} and {len(odd) - 1} more"
        )
    for name, allowed in shapes.items():
        if tuple(state[name].shape) not in allowed:
            raise IntegrityError(f"the optimiser's state does not fit: {name} has another shape")


def _shapes(optimiser: Optimizer, parameter: nn.Parameter) -> dict[str, tuple[Shape, ...]]:
    """The slots of a parameter, and which shapes each may have."""
    one: Shape = ()
    whole, flat = tuple(parameter.shape), (parameter.numel(),)
    if isinstance(optimiser, AdamW):
        return {"step": (one,), "exp_avg": (whole,), "exp_avg_sq": (whole,)}
    if "d" in optimiser.param_groups[0]:
        # Prodigy keeps one zero for a parameter that began as zeros, as every B does
        moments = {"exp_avg": (whole,), "exp_avg_sq": (whole,)}
        return {"step": (one,), "s": (flat,), "p0": (flat, one), **moments}
    blank = _blank_8bit(optimiser, parameter)
    return {slot: (tuple(getattr(value, "shape", one)),) for slot, value in blank.items()}


def _blank_8bit(optimiser: Any, parameter: nn.Parameter) -> dict[str, object]:
    """What bitsandbytes begins with: small tensors are kept in 32 bits, by a rule of its own."""
    optimiser.init_state(optimiser.param_groups[0], parameter, 0, 0)
    blank: dict[str, object] = optimiser.state.pop(parameter)
    return blank


def _as_tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return torch.tensor(value, dtype=_NUMBERS[type(value)])


def _as_value(tensor: Tensor, device: torch.device) -> Tensor | float:
    if tensor.dtype in _NUMBERS.values():
        return tensor.item()
    return tensor.to(device, copy=True)
